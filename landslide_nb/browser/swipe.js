// The body of a Bokeh callback: what was seen before covers the map left of the divider.
// x, pre, curtain, line and divider are its arguments; nothing of it goes back to the server.
const here = {sync: false}
if (['mousemove', 'tap'].includes(cb_obj.event_name)) {
  if (!line.visible) return
  divider.setv({value: Math.min(1, Math.max(0, (cb_obj.x - x.start)/(x.end - x.start)))}, here)
}
const place = x.start + divider.value*(x.end - x.start)
line.setv({location: place}, here)
const {image: [image], x: [left], dw: [width]} = pre.data
if (!line.visible || image == null) {
  curtain.setv({data: {image: [], x: [], y: [], dw: [], dh: []}}, here)
  return
}
const [rows, columns] = image.shape
const column = Math.min(columns, Math.max(0, Math.round((place - left)/width*columns)))
const covered = new image.constructor(image, image.shape)
for (let row = 0; row < rows; row++) covered.fill(0, row*columns + column, (row + 1)*columns)
curtain.setv({data: {...pre.data, image: [covered]}}, here)
