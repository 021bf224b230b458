// The body of a Bokeh callback: the text of cb_obj is the reviewer's name, kept in this web browser.
try { if (cb_obj.text) localStorage.setItem('landslide_reviewer', cb_obj.text) }
catch { } // a browser that keeps nothing: the page asks again
