"A run folder in a notebook: the card stays visible in a saved notebook, runs nothing, and the verbs say what they want."
import base64
import pydoc
import re
import subprocess
import sys

import nbformat
import pytest
from nbformat import v4
from traitlets.config import Config

from landslide_nb.mapping.runfolder import write_products
from landslide_nb.testing import mock_pair, mock_probability
from landslide_nb.verbs import VERBS, find_verb

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A run of an event with a wicked name"
    folder = tmp_path_factory.mktemp('card')/'run'
    pair = mock_pair().assign_attrs(event_name='<script>document.body.dataset.hit = 1</script><b>toy</b>')
    write_products(folder, pair, mock_probability(pair), dict(calibration=dict(threshold=.5)))
    return folder

def saved_notebook(run):
    "A notebook as Jupyter saves it, with the card as the output of its cell"
    shown = find_verb('open_run')(run)
    data = {'text/plain': repr(shown), 'text/html': shown._repr_html_()}
    output = v4.new_output('execute_result', data=data, execution_count=1)
    cell = v4.new_code_cell('open_run(folder)', outputs=[output], execution_count=1)
    return nbformat.reads(nbformat.writes(v4.new_notebook(cells=[cell])), as_version=4)

def test_a_saved_notebook_shows_the_card_without_any_script(run, tmp_path, chromium):
    from nbconvert import HTMLExporter
    config = Config(HTMLExporter=dict(require_js_url='', mathjax_url='', jquery_url='', mermaid_js_url=''))
    page, _ = HTMLExporter(config=config).from_notebook_node(saved_notebook(run))
    (tmp_path/'saved.html').write_text(page)
    context = chromium.new_context(java_script_enabled=False, offline=True)
    try:
        view = context.new_page()
        view.goto(f'file://{tmp_path}/saved.html')
        image = view.locator('img[alt="Map of landslide probability"]')
        box = image.bounding_box()
        assert box['width'] > 300 and box['height'] > 200
        said = view.inner_text('body')
    finally: context.close()
    for words in ('Worst hit is cell 1', 'expected landslide area', 'AUPRC of the map', '<b>toy</b>'): assert words in said

def test_nothing_of_the_files_becomes_markup(run, tmp_path, chromium):
    (tmp_path/'card.html').write_text(find_verb('open_run')(run)._repr_html_())
    view = chromium.new_page()
    try:
        view.goto(f'file://{tmp_path}/card.html')
        assert view.evaluate('document.body.dataset.hit') is None and view.locator('script, style, link, iframe').count() == 0
    finally: view.close()

def test_the_picture_is_the_map(run):
    from io import BytesIO
    import numpy as np
    from PIL import Image
    found = re.search('base64,([^"]+)', find_verb('open_run')(run)._repr_html_())[1]
    pixels = np.asarray(Image.open(BytesIO(base64.b64decode(found))).convert('RGB')).astype(int)
    red = (pixels[..., 0] > 150) & (pixels[..., 1] < 90) & (pixels[..., 2] < 90)
    height, width = red.shape
    assert red[:, :int(.8*width)].sum() > 300, 'the landslide is drawn' # without the colour bar
    rows, columns = np.nonzero(red[:, :int(.8*width)])
    assert np.median(columns) < .45*width and np.median(rows) < .6*height # in the north-west

@pytest.mark.parametrize('name', VERBS)
def test_help_says_every_parameter(name):
    "As its comments do, with unit and dims"
    import inspect
    verb = find_verb(name)
    said = pydoc.plain(pydoc.render_doc(verb))
    fixed = [o.name for o in inspect.signature(verb).parameters.values()]
    assert 'Parameters:' in said and all(re.search(rf'^\s+{one}: \S', said, re.M) for one in fixed), said

def test_the_package_is_still_light_and_the_browser_a_verb():
    code = ("import sys, landslide_nb as ls; light = not {'numpy', 'xarray', 'fastcore'} & set(sys.modules); ls.open_run; "
            "print(light, callable(ls.browser), ls.browser.runs.__name__)")
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ['True', 'True', 'landslide_nb.browser.runs']

def test_a_pair_and_its_log_ratio_say_their_units():
    from landslide_nb.data.cube import open_cube
    from landslide_nb.data.baselines import standardized_change
    from landslide_nb.data.pair import log_ratio
    from landslide_nb.mapping.mapping import scene_pair
    from landslide_nb.testing import mock_cube
    pair = scene_pair(open_cube(mock_cube()), ['vv', 'vh'], 'hokkaido')
    for data in (pair, log_ratio(pair, 5)):
        for name, variable in data.data_vars.items():
            assert variable.attrs.get('units') and variable.attrs.get('long_name'), name
    assert standardized_change(pair, 5).attrs == dict(units='1', long_name='standardized change 5 x 5')
