"""The picture of the page: `python docs/screen.py RUNS` draws nbs/images/app.png from the first run below RUNS, such as the folder that `landslide-nb demo` leaves.

A Chromium of the system shows the page at the size of a desk's screen; playwright steers it.
"""
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from landslide_nb.app import serve
from landslide_nb.guard import free_port, wait_for_port

PICTURE = Path(__file__).parents[1]/'nbs'/'images'/'app.png'
SCREEN = dict(width=1366, height=768) # px
FLAGS = ['--headless', '--no-sandbox', '--disable-gpu']

def take(address, to):
    "Wait until the page is counted and drawn, and keep what is seen"
    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=shutil.which('chromium'), args=FLAGS)
        page = browser.new_page(viewport=SCREEN)
        page.goto(address, timeout=120_000)
        page.locator('dd[data-n=area]', has_text='m²').wait_for(timeout=120_000)
        page.locator('.tabulator-row').first.wait_for(timeout=120_000)
        page.wait_for_timeout(3000) # images come last
        page.screenshot(path=to)
        browser.close()

def in_few_colours(path):
    "Half the bytes, and nobody sees it"
    few = Image.open(path).convert('RGB').quantize(256, method=Image.Quantize.MAXCOVERAGE)
    few.save(path, optimize=True)

def main(runs):
    "Serve the page for one picture"
    port = free_port()
    server = serve(runs, port, show=False, threaded=True)
    wait_for_port(port)
    take(f'http://127.0.0.1:{port}/', PICTURE)
    server.stop()
    in_few_colours(PICTURE)

if __name__ == '__main__': main(sys.argv[1])
