"Reviewing in a real headless Chromium: keys and mouse decide, draw and paint, and everything is in the file at once."
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from benchmarks.review import HOOK, LARGE
from conftest import CHROMIUM, NO_CHROMIUM
from test_app import Visitor, likely, serving

pytestmark = [pytest.mark.timeout(600), pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)]

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

@pytest.fixture
def run(folder, request):
    "A run for one test alone: what is decided stays in it"
    return Path(shutil.copytree(folder/'demo', folder/request.node.name.removeprefix('test_')))

BRIEF = ('import landslide_nb.labelling.turn as t; whole = t.retrain; ' # a real training, but short
         't.retrain = lambda folder: whole(folder, plan=t.TurnPlan(epochs=1)); ')

@pytest.fixture(scope='module')
def server(folder):
    with serving(folder, folder.parent/'server.log', BRIEF) as url: yield url

@pytest.fixture
def review(chromium, server, run):
    "Somebody, with a name or without, reviews the run of a test"
    return lambda name='': Reviewer(chromium, f'{server}?run={run.name}&tab=review', name)

MODELS = '[...Bokeh.documents[0]._all_models.values()]'
STATUS = """() => {
  const walk = root => {
    for (const e of root.querySelectorAll('*')) {
      if (e.matches('.review-status')) return e.innerText
      const found = e.shadowRoot && walk(e.shadowRoot)
      if (found) return found
    }
  }
  return walk(document) || ''
}"""
TWICE = """key => {
  for (const _ of [1, 2]) document.body.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true, composed: true}))
}""" # at once, however slow the machine is
SHOWN = "() => window.landslide_review && window.landslide_review.item"

def eventually(test):
    "Wait until a test holds"
    for _ in range(600):
        if test(): return True
        time.sleep(.1)
    return False

class Reviewer(Visitor):
    "A browser page on which somebody reviews"
    def __init__(self, chromium, url, name='', **context):
        super().__init__(chromium, url, **context)
        self.page.wait_for_function(SHOWN)
        if name: self.introduce(name)

    def introduce(self, name):
        field = self.page.get_by_placeholder('Your name')
        field.fill(name)
        field.press('Enter')
        self.page.wait_for_function('name => localStorage.getItem("landslide_reviewer") == name', arg=name)
        self.page.locator('h1').click() # out of the field

    def shown(self): return self.page.evaluate(SHOWN)

    def status(self): return self.page.locator('.review-status').inner_text()

    def list(self, name):
        "Another list, from its first open item"
        self.page.get_by_role('button', name=name, exact=True).click()
        self.page.wait_for_function(f'name => ({SHOWN})().startsWith(name)', arg=name.split()[0].lower())
        self.page.wait_for_timeout(700)
        return self

    def said(self, words):
        "Wait until the status says it"
        self.page.wait_for_function(f"words => ({STATUS})().includes(words)", arg=words)

    def decide_with(self, button):
        before = self.shown()
        self.page.get_by_role('button', name=button).click()
        self.page.wait_for_function(f'before => ({SHOWN})() != before', arg=before)
        self.page.wait_for_timeout(300)

    def ask(self, button, name):
        "A button that hands out chips"
        self.page.get_by_role('button', name=button).click()
        self.page.wait_for_function(f'name => ({SHOWN})().startsWith(name)', arg=name)
        self.page.wait_for_timeout(700)

    def yes(self, map_first=False):
        "What the map found, or a dot, is a landslide"
        if map_first: self.key('h')
        self.key('p', 'Paint')
        self.click(.5, .5)
        self.press('a')

    def outlines(self, which):
        "Corners of the outlines on the large map: 0 landslides, 1 what is none"
        return self.page.evaluate(f"which => {LARGE}.renderers.filter(r => r.glyph.type == 'Patches')[which].data_source.data.xs", which)

    def click(self, x, y):
        box = self.box()
        self.page.mouse.click(box['x'] + x*box['width'], box['y'] + y*box['height'])
        self.page.wait_for_timeout(500)

    def hold(self, x, y):
        "The mouse rests on a place, pressed"
        box = self.box()
        self.page.mouse.move(box['x'] + x*box['width'], box['y'] + y*box['height'])
        self.page.mouse.down()
        self.page.wait_for_timeout(700)
        self.page.mouse.up()
        self.page.wait_for_timeout(500)

    def press(self, key):
        "A key, and the next item is on the screen"
        before = self.shown()
        self.page.wait_for_timeout(300)
        self.page.keyboard.press(key)
        self.page.wait_for_function(f'before => ({SHOWN})() != before', arg=before)

    def key(self, key, active=None):
        "A key that stays on the item; the button that is active then"
        self.page.keyboard.press(key)
        if active: self.page.locator('button.bk-active').get_by_text(active, exact=True).wait_for()
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
        self.page.wait_for_function(f"() => {LARGE}.renderers.filter(r => r.glyph.type == 'MultiLine')[0].data_source.data.xs.length == 0")
        self.page.wait_for_timeout(200)

def labels_of(run):
    from landslide_nb.labelling.labels import read_labels
    return read_labels(run)

def test_ten_items_with_keys_and_mouse(review, run):
    "Each decision is in the file before the next item comes; a second press at once decides nothing"
    v = review()
    v.page.keyboard.press('a') # nobody has a name yet
    v.page.get_by_text('Write your name first').wait_for()
    v.introduce('anna')
    assert 'not seen yet' in v.status() and '1 of' in v.status()
    for key in 'arau': v.press(key)
    v.page.wait_for_timeout(300)
    for name in ('None (R)', 'Landslide (A)'): v.decide_with(name)
    v.page.wait_for_timeout(300)
    before = v.shown()
    v.page.evaluate(TWICE, 'r') # before the next one is seen
    v.page.wait_for_function(f'before => ({SHOWN})() != before', arg=before)
    for key in ('Shift+A', 'r', 'a'): v.press(key)
    v.said('10 decided')
    seen = labels_of(run).seen.sort_values('time')
    assert seen.decision.tolist() == ['landslide', 'none', 'landslide', 'unsure', 'none',
                                      'landslide', 'none', 'landslide', 'none', 'landslide']
    assert seen.sure.tolist()[7] == 'unsure' and set(seen.reviewer) == {'anna'}
    assert seen.pre.str.contains('2018-08-28').all() and (seen.pair == 'demo_a').all()
    v.press('z')
    assert len(labels_of(run).seen) == 9
    v.press('n')
    v.press('b')
    assert v.bad == []
    v.close()

def test_what_is_drawn_survives_a_closed_tab(review, run):
    "Outlines drawn, painted, erased and undone are in the file at once, and back on the page after a crash"
    v = review('dora').list('All chips')
    first = v.status().split(' · ')[0].split()[1]
    def mine(layer='landslides'):
        table = getattr(labels_of(run), layer)
        return table[(table.reviewer == 'dora') & (table.chip == first)]
    def area(): return mine().area.sum()
    v.drag((.3, .3), (.5, .3), (.5, .5), (.3, .5), (.3, .31)) # around something
    assert eventually(lambda: area() > 0)
    drawn = area()
    chip = 1280*1.12 # m across the map
    assert mine().area.between(.8*(.2*chip)**2, 1.5*(.2*chip)**2).any()
    assert (mine().sure == 'unsure').all() and first not in set(
        labels_of(run).seen[labels_of(run).seen.reviewer == 'dora'].chip)
    v.key('p', 'Paint')
    v.drag((.7, .72), (.85, .72)) # painted
    assert eventually(lambda: area() > drawn)
    painted = area() - drawn
    assert painted > 1000 and painted % 100 == pytest.approx(0, abs=1e-3) # whole pixels of 10 m
    v.key('x', 'Erase')
    v.drag((.4, .42), (.4, .47))
    assert eventually(lambda: area() < drawn + painted)
    v.key('z')
    assert eventually(lambda: area() == pytest.approx(drawn + painted))
    v.key('l', 'Not landslide')
    v.key('d', 'Draw')
    v.drag((.6, .15), (.8, .15), (.8, .25), (.6, .25), (.6, .16)) # a harvest
    assert eventually(lambda: mine('not_landslides').note.tolist() == ['harvest'])
    kept = area()
    v.close() # in the middle
    v = review('dora').list('All chips')
    assert v.status().startswith(f'Chip {first}')
    assert len(v.outlines(0)) == len(mine()) and len(v.outlines(1)) == 1
    v.press('a')
    assert area() == pytest.approx(kept) and (mine().sure == 'sure').all()
    assert not v.status().startswith(f'Chip {first}')
    v.page.reload()
    v.page.wait_for_function(SHOWN)
    v.list('All chips')
    v.said('1 decided')
    assert v.page.get_by_placeholder('Your name').input_value() == 'dora'
    assert not v.status().startswith(f'Chip {first}')
    assert v.bad == []
    v.close()

def test_corners_are_set_and_moved(review, run):
    v = review('egon').list('All chips')
    def areas(): return sorted(labels_of(run).landslides.query('reviewer == "egon"').area)
    v.key('c', 'Corners')
    v.hold(.15, .4)
    for place in ((.25, .4), (.25, .5)): v.click(*place)
    v.hold(.15, .5)
    side = .1*1280*1.12
    assert eventually(lambda: any(abs(a/side**2 - 1) < .3 for a in areas()))
    before = areas()
    v.key('e', 'Reshape')
    v.hold(.2, .45)
    v.drag((.25, .5), (.3, .57))
    assert eventually(lambda: sum(areas()) > sum(before))
    assert len(areas()) == len(before)
    assert v.bad == []
    v.close()

EVIL = '<img src=x onerror=document.title="owned">'

def test_hostile_names_and_notes_are_text(review, run):
    v = review(EVIL)
    note = v.page.get_by_placeholder('A note')
    note.fill('r' + EVIL)
    note.press('a') # a letter of the note, not a decision
    shown = v.shown()
    v.page.locator('h1').click()
    assert v.shown() == shown
    place = v.status()
    v.press('a')
    v.press('b')
    landslides = labels_of(run).landslides
    assert (landslides.reviewer == EVIL).any() and landslides.note.str.contains('<img').any()
    v.said('<img')
    assert place.split(' · ')[0] == v.status().split(' · ')[0]
    assert v.page.title() != 'owned' and v.page.locator('img[src=x]').count() == 0
    v.close()

def test_two_reviewers_see_each_other(review, run):
    "And the second is led to what the first has not seen"
    one, two = review('gina'), review('hugo')
    for v in (one, two): v.list('All chips')
    assert one.status().split(' · ')[0] == two.status().split(' · ')[0]
    one.press('r')
    two.said('gina: none')
    two.press('u')
    assert one.status().split(' · ')[0] == two.status().split(' · ')[0]
    one.press('b')
    one.said('hugo: unsure')
    assert 'gina: none' in one.status()
    assert one.bad == two.bad == []
    for v in (one, two): v.close()

def test_the_next_item_comes_at_once(review):
    "Every key brings an item, however busy the machine; how fast is measured by `python -m benchmarks.review`"
    v = review('ida')
    v.page.evaluate(HOOK)
    for key in 'nnnnrrrr': v.press(key)
    v.page.wait_for_timeout(300)
    took = v.page.evaluate('() => window.took')
    assert len(took) == 8 and np.median(took) < 20_000, took
    v.close()

@pytest.mark.timeout(600)
def test_round_the_loop(review, run):
    "Chips are drawn and suggested, the area follows, a model learns, and the new map stands beside the old one"
    v = review('jane')
    v.ask('Draw chips to estimate the area', 'drawn')
    assert '1 of 5' in v.status()
    for k in range(5): v.yes(map_first=True) if k < 2 else v.press('r')
    v.page.get_by_text('Landslide area by the drawn chips').wait_for()
    v.ask('Suggest chips to label', 'suggested') # of those that are not drawn, for these teach nothing
    v.yes()
    for key in 'rr': v.press(key)
    v.page.get_by_role('button', name='Train with these labels').click()
    v.page.get_by_role('button', name='Cancel').wait_for()
    v.press('b') # the page goes on
    v.page.get_by_role('button', name='Cancel').wait_for(state='hidden', timeout=400_000)
    v.page.get_by_text(f'The new map is {run.name}-2').wait_for()
    assert (run.with_name(f'{run.name}-2')/'probability.tif').exists()
    v.page.get_by_role('button', name='Compare with the new map').click()
    v.page.get_by_text(f'B: {run.name}-2').first.wait_for()
    assert v.bad == []
    v.close()

def test_who_serves_to_others_decides_whether_they_write(folder):
    from landslide_nb.app import Browser
    closed = Browser(folder, dict(run='demo'), review=False).make_tab('review')
    assert 'start the page with --review' in closed.view.object
