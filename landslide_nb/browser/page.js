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

function copy_link(button) {
  navigator.clipboard.writeText(location.href).then(() => {
    button.textContent = 'Copied'
    setTimeout(() => button.textContent = 'Copy link', 1500)
  })
}
