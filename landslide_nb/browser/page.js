if (dark) document.documentElement.classList.add('dark')
else if (!new URLSearchParams(location.search).has('theme') && matchMedia('(prefers-color-scheme: dark)').matches) {
  const address = new URL(location)
  address.searchParams.set('theme', 'dark')
  location.replace(address)
}

function other_theme() {
  const address = new URL(location)
  address.searchParams.set('theme', dark ? 'default' : 'dark')
  location.assign(address)
}

function copied(button) {
  button.textContent = 'Copied'
  setTimeout(() => button.textContent = 'Copy link', 1500)
}

// Browsers lend the clipboard only to secure pages. Elsewhere the link is shown selected, and copied if that is allowed.
function show_link(button) {
  const field = document.getElementById('link')
  field.value = location.href
  field.hidden = false
  field.select()
  if (document.execCommand('copy')) copied(button)
  else button.textContent = 'Press Ctrl+C'
}

function copy_link(button) {
  if (!navigator.clipboard) return show_link(button)
  navigator.clipboard.writeText(location.href).then(() => copied(button), () => show_link(button))
}
