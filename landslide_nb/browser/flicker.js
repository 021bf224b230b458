// The body of a Bokeh callback: cb_obj is the label that says what is shown; map is its argument.
clearInterval(window.landslide_flicker)
const [pre, post] = ['pre', 'post'].map(name => map.renderers.find(r => r.name == name))
if (cb_obj.visible && pre && post) {
  window.landslide_flicker = setInterval(() => {
    pre.visible = !pre.visible
    cb_obj.text = pre.visible ? 'before' : 'after'
  }, 700)
}
