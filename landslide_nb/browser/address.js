// The body of a Bokeh callback: the text of cb_obj becomes the query of the address, the theme stays.
const query = new URLSearchParams(cb_obj.text)
const theme = new URLSearchParams(location.search).get('theme')
if (theme) query.set('theme', theme)
history.replaceState(null, '', '?' + query)
