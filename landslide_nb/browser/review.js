// The body of a Bokeh callback: the text of cb_obj says which item is on the screen; pressed and who are its arguments.
window.landslide_review = {pressed, item: cb_obj.text}
if (!window.landslide_review_keys) {
  window.landslide_review_keys = 'arunbzvdcepxhfl1234[]'
  document.addEventListener('keydown', event => {
    const {pressed, item} = window.landslide_review
    if (!item || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return
    const fields = 'input, textarea, select, [contenteditable=true]'
    if (event.composedPath().some(at => at.matches && at.matches(fields))) return
    const key = event.key == 'Escape' ? 'v' : event.key.toLowerCase()
    if (key.length != 1 || !window.landslide_review_keys.includes(key)) return
    event.preventDefault()
    pressed.text = JSON.stringify([item, key, event.shiftKey, event.timeStamp])
  })
}
if (!who.text) {
  try { who.text = localStorage.getItem('landslide_reviewer') || '' }
  catch { } // a browser that keeps nothing: the page asks
}
