// The body of a Bokeh callback: cb_obj is the mouse event; deg, fit and layers are its arguments.
const el = document.getElementById('readout')
if (!el) return
const x = cb_obj.x, y = cb_obj.y
const n = v => v.toLocaleString('en', {maximumFractionDigits: deg ? 5 : 0})
const out = [deg ? `${n(x)}°, ${n(y)}°` : `east ${n(x)} m, north ${n(y)} m`]
if (fit && !deg) { // longitude and latitude as polynomials of the third degree
  const u = (x-fit.c[0])/fit.s[0], v = (y-fit.c[1])/fit.s[1]
  let k = 0, lon = 0, lat = 0
  for (let i = 0; i < 4; i++) {
    for (let j = 0; j < 4-i; j++) {
      const term = u**i*v**j
      lon += fit.lon[k]*term
      lat += fit.lat[k]*term
      k++
    }
  }
  const north = `${Math.abs(lat).toFixed(5)}° ${lat < 0 ? 'S' : 'N'}`
  const east = `${Math.abs(lon).toFixed(5)}° ${lon < 0 ? 'W' : 'E'}`
  out.push(`${north} ${east}`)
}
for (const [name, source, low, high, unit] of layers) {
  const d = source.data
  if (!d.image.length) continue
  const [height, width] = d.image[0].shape
  const column = Math.floor((x-d.x[0])/d.dw[0]*width)
  const row = Math.floor((y-d.y[0])/d.dh[0]*height)
  if (column < 0 || row < 0 || column >= width || row >= height) continue
  const code = d.image[0][row*width+column] // 0 is no data, 1 to 255 are low to high
  const value = (low+(code-1)*(high-low)/254).toFixed(unit ? 1 : 2) + (unit ? ' '+unit : '')
  out.push(`${name} ${code ? value : 'no data'}`)
}
el.textContent = out.join('   ·   ')
