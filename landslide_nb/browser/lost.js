// The body of a Bokeh callback: a web map whose first tile does not come is said to be lost; lost is the label that says so.
const say = visible => lost.setv({visible}, {sync: false})
const url = cb_obj.data.url[0]
if (url == null) say(false)
else {
  const probe = new Image()
  probe.onload = () => say(false)
  probe.onerror = () => say(true)
  probe.src = url
}
