"Reviewing in a real headless Chromium: keys and mouse decide, draw and paint, and everything is in the file at once."
import json
import shutil
import time

import geopandas as gpd
import numpy as np
import pytest
from conftest import CHROMIUM, NO_CHROMIUM
from test_app import Visitor, likely, serving

pytestmark = [pytest.mark.timeout(300), pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)]

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A run of the embedded event, small"
    from landslide_nb.data.pair import make_pair
    from landslide_nb.data.simulate import simulate_event
    from landslide_nb.mapping.runfolder import write_products
    out = tmp_path_factory.mktemp('review')/'runs'
    pair = make_pair(simulate_event('demo_a', seed=0, size=384)).load()
    write_products(out/'demo', pair, likely(pair), dict(arch='log-ratio', calibration=dict(threshold=.6)))
    return out

@pytest.fixture(scope='module')
def server(folder):
    with serving(folder, folder.parent/'server.log') as url: yield url

MODELS = '[...Bokeh.documents[0]._all_models.values()]'
LARGE = f"{MODELS}.filter(m => m.type == 'Plot' && m.toolbar.tools.some(t => t.type == 'FreehandDrawTool'))[0]"
SHOWN = "() => window.landslide_review && window.landslide_review.item"

class Reviewer(Visitor):
    "A browser page on which somebody reviews"
    def __init__(self, chromium, url, name='', query='?run=demo&tab=review', **context):
        super().__init__(chromium, url + query, **context)
        self.page.wait_for_function(SHOWN, timeout=60_000)
        if name: self.introduce(name)

    def introduce(self, name):
        field = self.page.get_by_placeholder('Your name')
        field.fill(name)
        field.press('Enter')
        self.page.wait_for_function('name => localStorage.getItem("landslide_reviewer") == name', arg=name)
        self.page.locator('h1').click() # out of the field

    def shown(self): return self.page.evaluate(SHOWN)

    def status(self): return self.page.locator('.review-status').inner_text()

    def press(self, key):
        "A key, and the next item is on the screen"
        before = self.shown()
        self.page.wait_for_timeout(300)
        self.page.keyboard.press(key)
        self.page.wait_for_function(f'before => ({SHOWN})() != before', arg=before, timeout=10_000)

    def key(self, key):
        "A key that stays on the item"
        self.page.keyboard.press(key)
        self.page.wait_for_timeout(300)

    def box(self):
        "The large map on the screen"
        boxes = [plot.bounding_box() for plot in self.page.locator('.bk-Plot').all()]
        return max((b for b in boxes if b), key=lambda b: b['width'])

    def drag(self, *shares):
        "The mouse goes through places of the large map, each in shares of its width and height"
        box = self.box()
        points = [(box['x'] + x*box['width'], box['y'] + y*box['height']) for x, y in shares]
        self.page.mouse.move(*points[0])
        self.page.mouse.down()
        for point in points[1:]: self.page.mouse.move(*point, steps=6)
        self.page.mouse.up()
        self.page.wait_for_timeout(400)

    def ranges(self): return self.page.evaluate(f'() => (p => [p.x_range.start, p.y_range.start, p.x_range.end, p.y_range.end])({LARGE})')

def labels_of(folder):
    from landslide_nb.labelling.labels import read_labels
    return read_labels(folder/'demo')

def test_ten_polygons_with_keys(chromium, server, folder):
    v = Reviewer(chromium, server, 'anna')
    start = v.status()
    assert 'not seen yet' in start and '1 of' in start
    for key in 'arauraarar': v.press(key)
    assert '10 decided' in v.status()
    seen = labels_of(folder).seen
    assert seen.decision.tolist() == ['landslide', 'none', 'landslide', 'unsure', 'none', 'landslide', 'landslide', 'none', 'landslide', 'none']
    assert set(seen.reviewer) == {'anna'} and seen.pre.str.contains('2018-08').all() and seen.time.str.startswith('20').all()
    v.press('z')
    assert len(labels_of(folder).seen) == 9
    assert v.bad == []
    v.close()
