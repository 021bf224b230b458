"The page that is handed over: two sheets of A4 whatever the map, with labels that do not overlap, printed without a network."
import http.server
import json
import re
import shutil
import threading
from itertools import combinations

import geopandas as gpd
import numpy as np
import pytest
from conftest import NO_CHROMIUM, CHROMIUM, command, one_sentence
from matplotlib.backends.backend_agg import FigureCanvasAgg
from shapely.geometry import LineString, Point, box

from landslide_nb.browser import words as browser_words
from landslide_nb.browser.panels import view_figure
from landslide_nb.browser.runs import open_run
from landslide_nb.browser.views import fit
from landslide_nb.cli import main
from landslide_nb.commands.report import find_printer, page_of, print_page
from landslide_nb.mapping.exposure import ExposureFiles
from landslide_nb.mapping.marginalia import MapPlace, ground_metres
from landslide_nb.mapping.picture import plot_scene
from landslide_nb.mapping.report import found_text
from landslide_nb.mapping.runfolder import write_products
from landslide_nb.mapping.sheet import Sheet, draw_sheet, place_numbers, share_a_point, sheet_figure
from landslide_nb.mapping.words import SIMULATED_EVENT, html_page, model_in_words
from landslide_nb.testing import mock_pair

AREA = dict(coverage=.9, chips=19, pixels=100, low=-8/3, high=3.)
META = dict(arch='unet', training=dict(chips='random regions'),
            calibration=dict(scale=1., bias=0., threshold=.17498, area=AREA),
            nulls=dict(pairs=4, share=.0123, threshold=.17, model_threshold=.17,
                       passes_pre=['2018-01-01'], passes_post=['2018-02-01']))
PASSES = dict(orbit='descending', track='46', passes_pre=['2018-08-01', '2018-08-25'], passes_post=['2018-09-06', '2018-09-18'],
              unseen_steep_share=.14)

def hilly(size, **options):
    "A pair with hills"
    pair = mock_pair(size, **options)
    y, x = np.mgrid[:size[0], :size[1]]
    return pair.assign(dem=(('y', 'x'), (40*np.sin(x/9) + 30*np.cos(y/11)).astype('float32'))).assign_attrs(
        pair.attrs, **PASSES)

def blobs(pair):
    "A map with landslides here and there, none across the middle"
    from scipy.ndimage import gaussian_filter
    noise = gaussian_filter(np.random.default_rng(0).normal(size=pair.landslides.shape), 3)
    p = 1/(1 + np.exp(6 - 2.5*noise/noise.std()))
    middle = p.shape[1]//2
    p[:, middle-30:middle+30] = .001
    return pair.landslides.copy(data=p.astype('float32')).rename('probability')

def exposure(folder):
    "Roads, places and people beside a scene"
    x, y = 5e5, 4.7e6
    gpd.GeoDataFrame(geometry=[LineString([(x, y - 500), (x + 4000, y - 400)])], crs=32654).to_file(folder/'roads.gpkg')
    names = ['Atsuma', 'A village with a long name <b>']
    gpd.GeoDataFrame(dict(name=names), geometry=[Point(x + 400, y - 500), Point(x + 1500, y - 1000)],
                     crs=32654).to_file(folder/'places.gpkg')
    (hilly((200, 260)).landslides*0 + .3).astype('float32').rio.write_crs(32654).rio.to_raster(folder/'people.tif')
    return ExposureFiles(folder/'roads.gpkg', folder/'places.gpkg', folder/'people.tif')

SCENES = {
    'degrees across 180': dict(size=(120, 160), crs='EPSG:4326', corner=(179.96, -17.), pixel=.0005),
    'UTM across 180': dict(size=(200, 200), crs='EPSG:32760', corner=(818_500., 8_118_000.)),
    'polar': dict(size=(150, 150), crs='EPSG:3413', corner=(-200_000., -1_500_000.), pixel=100.),
    'wide': dict(size=(130, 700)),
    'tall': dict(size=(700, 130)),
    'tiny': dict(size=(130, 160), pixel=.2),
}

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "A folder of run folders of many kinds"
    root = tmp_path_factory.mktemp('runs')
    pair = hilly((200, 260)).assign_attrs(event_name='demo_a', event_start='2018-09-05', event_end='2018-09-07',
                                          source='simulated, seed 0')
    zones = gpd.GeoDataFrame(dict(name=['Upper catchment', 'Lower']),
                             geometry=[box(5e5, 4.698e6, 5.013e5, 4.7e6), box(5.013e5, 4.698e6, 5.026e5, 4.7e6)],
                             crs=32654)
    write_products(root/'full', pair, blobs(pair), META, cell=500., exposure=exposure(root))
    write_products(root/'zones', pair, blobs(pair), META, zones=zones)
    plain = mock_pair((150, 203))
    write_products(root/'plain', plain.drop_vars('landslides'), blobs(plain)*0 + .001, META)
    for name, scene in SCENES.items():
        pair = hilly(**scene).assign_attrs(event_name=name)
        write_products(root/name, pair, blobs(pair), META, cell=2000.)
    shutil.copytree(root/'zones', root/'hostile')
    path = root/'hostile'/'metrics.json'
    metrics = json.loads(path.read_text())
    metrics |= dict(event_name='<script>alert(1)</script> $\\frac{1}{ \u202e ' + 'x'*3000, event_start='<i>'*300, track='<b>'*300,
                    passes_pre=['<b>' + '9'*500]*3, passes_post=['2018-09-18']*90, simulated=False, source='',
                    warnings=['<img src=x onerror=alert(1)> ' + 'word '*400]*12,
                    model=dict(arch='<b>'*400, training=dict(train_chips='<u>'*400)))
    path.write_text(json.dumps(metrics))
    return root

@pytest.fixture(scope='module')
def page(runs):
    "The page of a run, made again once"
    made = {}
    def page_of_run(name):
        if name not in made: made[name] = page_of(runs/name)[0]
        return made[name]
    return page_of_run

EVERY = ['full', 'zones', 'plain', 'hostile', *SCENES]


# On paper

def sheets(pdf):
    "Width and height, mm, of each page of a PDF"
    data = pdf.read_bytes()
    pages = len(re.findall(rb'/Type\s*/Page\b', data))
    boxes = [[float(n)*25.4/72 for n in found.split()[2:]] for found in re.findall(rb'/MediaBox\s*\[([^\]]*)\]', data)]
    assert len(boxes) in (1, pages) # said once, or for each
    return boxes*(pages if len(boxes) == 1 else 1)

@pytest.mark.parametrize('name', ['full', 'hostile', 'tall'])
def test_two_sheets_of_a4_whatever_the_map(page, name, tmp_path):
    if find_printer() is None: pytest.skip(NO_CHROMIUM)
    print_page(page(name), tmp_path/'page.pdf')
    assert sheets(tmp_path/'page.pdf') == [pytest.approx([210, 297], abs=.5)]*2

def test_the_command_prints_the_page_with_all_it_has_to_say(runs, tmp_path):
    pypdf = pytest.importorskip('pypdf', reason='without pypdf the text of a PDF cannot be read')
    if CHROMIUM is None: pytest.skip(NO_CHROMIUM)
    out = command('report', runs/'full', '--pdf', 'sheet.pdf', cwd=tmp_path, cold=True)
    assert out.returncode == 0 and out.stdout.strip() == 'printed: sheet.pdf', out.stderr
    front, back = [''.join(sheet.extract_text().split()) for sheet in pypdf.PdfReader(tmp_path/'sheet.pdf').pages]
    for said in ('Simulated earthquake in a Hokkaido-like region', SIMULATED_EVENT, 'Worst hit is cell 1, at 42.', 'You may not conclude',
                 'track 46 (descending) cannot see 14.0% of the ground', 'between 2018-08-25 and 2018-09-06', 'Page 1 of 2'):
        assert said.replace(' ', '') in front, said
    for said in ('passes before 2018-08-01, 2018-08-25', 'shipped weights, no local labels', '1.23% of the worst of 4 null pairs', 'AUPRC of the map',
                 'roads from roads.gpkg', 'Page 2 of 2'):
        assert said.replace(' ', '') in back, said
    assert not [path for path in tmp_path.iterdir() if path.name.startswith('.')]

def test_without_a_name_it_lies_in_the_run_folder(runs, tmp_path):
    if find_printer() is None: pytest.skip(NO_CHROMIUM)
    shutil.copytree(runs/'plain', tmp_path/'run')
    assert main(['report', str(tmp_path/'run'), '--pdf']) == 0
    assert len(sheets(tmp_path/'run'/'report.pdf')) == 2

def test_what_is_printed_fetches_nothing(tmp_path):
    if find_printer() is None: pytest.skip(NO_CHROMIUM)
    asked = []
    class Listens(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)
        def log_message(self, *args): pass
    with http.server.HTTPServer(('127.0.0.1', 0), Listens) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f'http://127.0.0.1:{server.server_port}'
        bad = (f'<img src="{at}/image"><link rel=stylesheet href="{at}/style">'
               f'<script>new Image().src="{at}/script"</script><iframe src="{at}/frame"></iframe>')
        print_page(html_page('bad', bad), tmp_path/'bad.pdf')
        server.shutdown()
    assert (tmp_path/'bad.pdf').exists() and asked == []


# In the browser: what a reader would see cut off, broken or overlapping

OUT_OF_ROOM = '''[...document.querySelectorAll('.front, .back')].map(s => [s.scrollWidth - s.clientWidth, s.scrollHeight - s.clientHeight])'''
BROKEN = '''[...document.querySelectorAll('td:not(.long), .n')].filter(c => {
    const r = document.createRange(); r.selectNodeContents(c)
    return new Set([...r.getClientRects()].map(b => Math.round(b.top))).size > 1}).map(c => c.textContent)'''
MAP = '''(() => {const b = document.querySelector('.front img').getBoundingClientRect(); return [b.width, b.height]})()'''

@pytest.mark.parametrize('name', EVERY)
def test_nothing_is_cut_off_or_broken_on_paper(page, name, chromium):
    tab = chromium.new_page(viewport=dict(width=703, height=1028)) # A4 without its margins
    said = []
    tab.on('console', lambda message: said.append(message.text))
    tab.on('dialog', lambda dialog: said.append(dialog.message))
    tab.emulate_media(media='print')
    tab.set_content(page(name))
    wide_and_tall = tab.evaluate(OUT_OF_ROOM)
    assert len(wide_and_tall) == 2
    assert all(wide <= 1 for wide, _ in wide_and_tall), wide_and_tall
    if name != 'hostile': assert all(tall <= 1 for _, tall in wide_and_tall), wide_and_tall
    assert tab.evaluate(BROKEN) == []
    assert min(tab.evaluate(MAP)) > (150 if name == 'hostile' else 250) # pixels of 1/96 inch
    assert tab.evaluate('document.querySelectorAll("script, iframe, link, img:not([src^=data])").length') == 0
    assert said == []
    tab.close()

def test_a_phone_shows_the_page_without_moving_it_sideways(page, chromium):
    tab = chromium.new_page(viewport=dict(width=390, height=800))
    tab.set_content(page('full'))
    assert tab.evaluate('document.documentElement.scrollWidth') <= 390
    tab.close()

def test_the_worst_place_stands_first_and_warnings_before_the_map(runs, page):
    metrics = json.loads((runs/'full'/'metrics.json').read_text())
    text = page('full').replace('\xa0', ' ')
    order = [text.index(part) for part in (SIMULATED_EVENT, 'Worst hit is cell 1', found_text(metrics)[1:20], '<figure>', 'The worst-hit cells',
                                           'You may conclude', 'Sources and times', 'Appendix', 'AUPRC', 'How to read')]
    assert order == sorted(order)
    assert text.count('<tr>', 0, text.index('You may conclude')) == 1 + 5
    assert re.search(r'<td>[\d.]+ ha</td><td>[\d.]+ to [\d.]+ ha</td>', text)
    assert '<th>road</th><th>people</th>' in text and '; near A village with a long name &lt;b&gt;' in text
    hostile = page('hostile')
    assert hostile.index('role="alert"') < hostile.index('<figure>') and '9 more warnings' in hostile

def test_zones_are_named(page):
    text = page('zones').replace('\xa0', ' ')
    assert re.search('Worst hit is zone 1, (Upper catchment|Lower), at', text) and 'The worst-hit zones' in text

def test_the_page_made_again_is_the_page_that_was_written(runs, page, tmp_path):
    for name in ('full', 'zones', 'plain'):
        assert page(name) == (runs/name/'report.html').read_text(), name
    shutil.copytree(runs/'plain', tmp_path/'run')
    before = {path.name: path.read_bytes() for path in (tmp_path/'run').iterdir()}
    (tmp_path/'run'/'report.html').unlink()
    assert main(['report', str(tmp_path/'run')]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path/'run').iterdir()} == before


# Labels, measured

def boxes_of(labels, renderer):
    "Where the labels that are seen lie"
    return [(label.get_text(), label.get_window_extent(renderer)) for label in labels
            if label.get_visible() and label.get_text()]

def overlapping(fig):
    "Labels of ticks that overlap, or stand out of the figure"
    renderer = FigureCanvasAgg(fig).get_renderer()
    fig.draw(renderer)
    seen = []
    for ax in fig.axes:
        if not ax.get_visible() or not ax.axison: continue
        for axis in (ax.xaxis, ax.yaxis):
            if axis.get_tick_params().get('labelbottom', True) or axis.get_tick_params().get('labelleft', False):
                seen += boxes_of([tick.label1 for tick in axis._update_ticks() if tick.label1.get_visible()], renderer)
    whole = fig.bbox
    out = [text for text, b in seen if b.x0 < 0 or b.y0 < 0 or b.x1 > whole.x1 or b.y1 > whole.y1]
    return [(a, b) for (a, box_a), (b, box_b) in combinations(seen, 2) if box_a.overlaps(box_b)] + out, len(seen)

def test_the_measure_sees_labels_that_overlap():
    from matplotlib.figure import Figure
    fig = Figure(figsize=(2, 2))
    fig.subplots().set_xticks([0, .05, 1], ['a long label']*3)
    assert overlapping(fig)[0]

def sheet_of(folder):
    layers = {name: gpd.read_file(folder/'landslides.gpkg', layer=name) for name in ('cells', 'polygons')}
    files = {path.name: path for path in folder.glob('*.tif')}
    return Sheet(files, layers['cells'].head(5), layers['polygons'], '0.50')

@pytest.mark.parametrize('name', ['full', *SCENES])
def test_no_label_of_a_map_overlaps_another(runs, name):
    run = open_run(runs, name)
    scene = SCENES.get(name, dict(size=(200, 260)))
    pair = hilly(**scene)
    figures = dict(sheet=sheet_figure(sheet_of(runs/name)), picture=plot_scene(pair, blobs(pair), name),
                   view=view_figure(run, fit(run.bounds, run.kx), run.threshold))
    for what, fig in figures.items():
        wrong, n = overlapping(fig)
        assert wrong == [] and n >= 4, (what, wrong, n)

def test_labels_say_degrees_across_the_line_without_a_jump(runs):
    fig = sheet_figure(sheet_of(runs/'degrees across 180'))
    texts = [label.get_text() for label in fig.axes[0].get_xticklabels()]
    assert any(text.endswith('E') for text in texts) and any(text.endswith('W') for text in texts)
    assert not any(text.startswith('18') and text[3:4] != '.' for text in texts) and all(
        float(text.split('°')[0]) <= 180 for text in texts)

def test_the_scale_bar_is_true(runs):
    "Its length on paper, in metres on the ground, is what it says"
    for name in ('full', 'polar', 'degrees across 180'):
        fig = sheet_figure(sheet_of(runs/name))
        ax = fig.axes[0]
        bar = next(line for line in ax.lines if line.get_transform() is ax.transAxes)
        said, unit = next(text.get_text() for text in ax.texts if text.get_text().endswith('m')).split()
        left, right = ax.get_xlim()
        place = MapPlace(open_run(runs, name).crs, (left, ax.get_ylim()[0], right, ax.get_ylim()[1]))
        metres = np.ptp(bar.get_xdata())*(right - left)*ground_metres(place)[0]
        assert metres == pytest.approx(float(said)*dict(m=1, km=1000)[unit], rel=.01), name

def test_numbers_hide_neither_places_nor_each_other():
    rng = np.random.default_rng(0)
    for _ in range(200):
        corners = rng.uniform(0, 380, (5, 2))
        places = [(x, y, x + 12, y + 12) for x, y in corners]
        spots = place_numbers(places, (392, 392))
        for a, b in combinations(spots, 2): assert not share_a_point(a, b)
        for spot in spots: assert min(spot) >= 0 and max(spot) <= 392
        assert sum(share_a_point(spot, place) for spot in spots for place in places) == 0

def test_a_map_of_hills_is_a_hillshade_and_one_without_is_radar(runs):
    for name, below in (('full', 'hillshade'), ('plain', 'radar image\nafter the event (VH)')):
        legend = next(ax.get_legend() for ax in sheet_figure(sheet_of(runs/name)).axes if ax.get_legend())
        assert below in [text.get_text() for text in legend.get_texts()], name


# What cannot be done is one sentence

def without(name):
    def spoil(folder): (folder/name).unlink()
    return spoil

def with_bytes(name, data):
    def spoil(folder): (folder/name).write_bytes(data)
    return spoil

def with_metrics(**changes):
    def spoil(folder):
        path = folder/'metrics.json'
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return spoil

WRONG = {
    'no map': (without('probability.tif'), 'is no run folder'),
    'no numbers': (without('metrics.json'), 'metrics.json is missing'),
    'no layers': (without('landslides.gpkg'), 'landslides.gpkg is missing'),
    'no pair': (without('pair.tif'), 'pair.tif is missing'),
    'a damaged map': (with_bytes('probability.tif', b'II*\0'), 'probability.tif'),
    'damaged layers': (with_bytes('landslides.gpkg', b'<html>'), 'landslides.gpkg'),
    'numbers that are none': (with_bytes('metrics.json', b'[1, 2]'), 'do not hold what'),
    'a threshold that is a word': (with_metrics(threshold='high'), 'do not hold what'),
    'passes that are a number': (with_metrics(passes_pre=3), 'do not hold what'),
}

@pytest.mark.parametrize('case', WRONG)
def test_a_run_that_makes_no_page_is_one_sentence(runs, case, tmp_path, capsys):
    spoil, said = WRONG[case]
    shutil.copytree(runs/'full', tmp_path/'run')
    spoil(tmp_path/'run')
    names = sorted(path.name for path in (tmp_path/'run').iterdir())
    assert main(['report', str(tmp_path/'run'), '--pdf', str(tmp_path/'x.pdf')]) == 1
    err = capsys.readouterr().err
    assert err.count('landslide-nb: ') == 1 and said in err and 'Traceback' not in err, err
    assert not (tmp_path/'x.pdf').exists() and sorted(path.name for path in (tmp_path/'run').iterdir()) == names

def test_a_desk_without_a_browser_is_told_what_to_do(runs, tmp_path):
    out = command('report', runs/'plain', '--pdf', 'x.pdf', cwd=tmp_path, PATH='')
    one_sentence(out, 'no Chromium, Chrome or Edge')
    assert 'open report.html in any browser and print it' in out.stderr
    assert not list(tmp_path.glob('*.pdf'))

def test_a_browser_that_prints_nothing_is_one_sentence(runs, tmp_path, monkeypatch, capsys):
    (tmp_path/'chromium').write_text('#!/bin/sh\necho no display >&2\nexit 7\n')
    (tmp_path/'chromium').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:/bin:/usr/bin')
    assert main(['report', str(runs/'plain'), '--pdf', str(tmp_path/'x.pdf')]) == 1
    err = capsys.readouterr().err
    assert "printed nothing (exit 7, 'no display')" in err and err.count('landslide-nb: ') == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ['chromium']

def test_a_pdf_that_cannot_be_written_is_one_sentence(runs, tmp_path, capsys):
    (tmp_path/'full').mkdir()
    (tmp_path/'file').touch()
    for path, said in ((tmp_path/'full', 'is a folder'), (tmp_path/'file'/'x.pdf', 'Cannot write')):
        if find_printer() is None: pytest.skip(NO_CHROMIUM)
        assert main(['report', str(runs/'plain'), '--pdf', str(path)]) == 1
        err = capsys.readouterr().err
        assert said in err and err.count('landslide-nb: ') == 1, err


# Said once

def test_report_browser_and_files_say_the_same_of_a_run(runs, page):
    run = open_run(runs, 'full')
    screen = browser_words.run_html(run)
    made = model_in_words(run.metrics['model'])
    polygons = gpd.read_file(runs/'full'/'landslides.gpkg', layer='polygons')
    assert made in screen and made in page('full') and set(polygons.model) == {made}
    assert SIMULATED_EVENT in screen and 'Null check: 1.23%' in screen and 'Null check: 1.23%' in page('full')

def test_the_sheet_is_drawn_from_the_files_of_a_run(runs):
    files = {path.name: path for path in (runs/'zones').glob('*.tif')}
    layers = {name: gpd.read_file(runs/'zones'/'landslides.gpkg', layer=name) for name in ('cells', 'zones', 'polygons')}
    picture, worst, kind = draw_sheet(files, layers, .5)
    assert (picture[:4], len(worst), kind) == (b'\x89PNG', 2, 'zone')
