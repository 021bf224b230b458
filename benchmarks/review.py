"""How long the next item of the review page takes in Chromium: from the key to its image on the screen, by the clock and in CPU time.

`python -m benchmarks.review --folder FOLDER` makes a run of demo_a there (2,048 px, a stand-in for a model), serves it, and presses N, then R, twenty times each.
CPU time is that of the server and of all processes of Chromium, which does not depend on what else the machine does."""
import argparse, os
from pathlib import Path

import numpy as np

from benchmarks.app import Server

PRESSES = 20
RUN = 'demo'
LARGE = ("[...Bokeh.documents[0]._all_models.values()].filter(m => m.type == 'Plot' && "
         "m.toolbar.tools.some(t => t.type == 'FreehandDrawTool'))[0]")
SHOWN = 'window.landslide_review && window.landslide_review.item'
HOOK = f"""() => {{
  const image = {LARGE}.renderers.filter(r => r.glyph.type == 'Image' && r.visible)[0]
  window.took = []
  let start = null
  document.addEventListener('keydown', () => start = performance.now(), true)
  image.data_source.properties.data.change.connect(() => requestAnimationFrame(() => requestAnimationFrame(() => {{
    if (start != null) window.took.push(performance.now() - start)
    start = null
  }})))
}}"""

def make_run(folder):
    "A run of the embedded event whose probability is the smoothed log-ratio, squeezed"
    from landslide_nb.data.events import event_cube
    from landslide_nb.data.pair import log_ratio, make_pair
    from landslide_nb.mapping.runfolder import write_products
    if (folder/RUN/'metrics.json').exists(): return
    pair = make_pair(event_cube('demo_a', 2048), 'demo_a', passes=3).load()
    score = log_ratio(pair, size=3).score
    odds = np.exp((score/float(score.std()) - 2)*1.7)
    prob = (odds/(1 + odds)).astype('float32').rename('probability').assign_attrs(units='1').rio.write_crs(pair.rio.crs)
    write_products(folder/RUN, pair, prob, dict(arch='log-ratio', calibration=dict(threshold=.6)))

def tree(pid):
    "A process and all that it started"
    import psutil
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]

def cpu_seconds(pids):
    "User and system time that processes have used"
    ticks = 0
    for pid in pids:
        try: fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
        except OSError: continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks/os.sysconf('SC_CLK_TCK')

def press(page, key):
    "Press a key once, and wait for the next item"
    before = page.evaluate(f'() => {SHOWN}')
    page.keyboard.press(key)
    page.wait_for_function(f'before => ({SHOWN}) != before', arg=before, timeout=20_000)
    page.wait_for_timeout(400) # a second press at once decides nothing

def used_cpu(server):
    "CPU seconds of the server, and of all that this process started"
    return cpu_seconds(tree(server.process.pid)), cpu_seconds(tree(os.getpid())[1:])

def pressed(page, key, server):
    "Seconds by the clock, a press each, and CPU seconds a press of the server and of Chromium"
    page.evaluate('() => { window.took.length = 0 }')
    server_before, all_before = used_cpu(server)
    for _ in range(PRESSES): press(page, key)
    server_after, all_after = used_cpu(server)
    server_cpu = (server_after - server_before)/PRESSES
    all_cpu = (all_after - all_before)/PRESSES
    took = np.array(page.evaluate('() => window.took'))/1000
    return took, server_cpu, all_cpu - server_cpu

def open_review(browser, port):
    "The page of the review of all chips, by somebody with a name"
    page = browser.new_page(viewport=dict(width=1366, height=768))
    page.goto(f'http://127.0.0.1:{port}/?run={RUN}&tab=review', timeout=90_000)
    page.wait_for_function(f'() => {SHOWN}', timeout=60_000)
    name = page.get_by_placeholder('Your name')
    name.fill('ida')
    name.press('Enter')
    page.locator('h1').click()
    page.get_by_role('button', name='All chips', exact=True).click()
    page.wait_for_timeout(2000)
    page.evaluate(HOOK)
    return page

def print_table(page, server):
    "Measure each key and print its row"
    print('| key | median, s | slowest, s | CPU of the server, s | of Chromium, s |\n| --- | --- | --- | --- | --- |')
    for key, what in (('n', 'N: next'), ('r', 'R: none, and next')):
        took, ours, chromium = pressed(page, key, server)
        assert len(took) == PRESSES, took
        print(f'| {what} | {np.median(took):.2f} | {took.max():.2f} | {ours:.2f} | {chromium:.2f} |', flush=True)

def main():
    "Make the run, serve it, and press the keys"
    from playwright.sync_api import sync_playwright
    p = argparse.ArgumentParser('python -m benchmarks.review', description=__doc__)
    p.add_argument('--folder', type=Path, required=True)
    p.add_argument('--chromium', default='/usr/bin/chromium')
    args = p.parse_args()
    make_run(args.folder)
    with Server(args.folder, 600) as server, sync_playwright() as play:
        headless = ['--headless', '--no-sandbox', '--disable-gpu']
        browser = play.chromium.launch(executable_path=args.chromium, args=headless)
        print_table(open_review(browser, server.port), server)
        browser.close()

if __name__ == '__main__': main()
