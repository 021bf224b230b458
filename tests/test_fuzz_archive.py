"""What archives answer, malformed: it becomes frames and a plan or one sentence, in bounded time and memory. See `fuzzing.py`."""
import itertools
import json
import os
import sys
from datetime import date
from pathlib import Path

import pytest
from hypothesis import strategies as st
from pyproj import Transformer

sys.path.insert(0, str(Path(__file__).parent))
from fuzzing import campaign, odd_json, spoiled

from landslide_nb.archive.box import cube_grid, read_box
from landslide_nb.archive.catalog import Patience, frames_of, search_pages
from landslide_nb.archive.frames import mock_item, native_grid
from landslide_nb.archive.plan import due_passes, plan_cube
from landslide_nb.core import Event
from landslide_nb.loopback import Answer, serve_catalog

pytestmark = pytest.mark.timeout(int(os.environ.get('FUZZ_TIMEOUT', 7200 if 'FUZZ_CASES' in os.environ else 300)))

PLACE = read_box('143.2 -5.6 143.6 -5.2')
ENGA = Event('enga', '2024-05-23', '2024-05-24')
GRID = {'proj:code': 'EPSG:32754', 'proj:shape': [11400, 11400], 'proj:transform': [10, 0, 7.2e5, 0, -10, 9.448e6, 0, 0, 1]}

def product(day):
    "An item of a day of May 2024, with all that an archive may say"
    item = mock_item(f'S1A_IW_GRDH_1SDV_202405{day}T203605_202405{day}T203630_053693_0685D4_rtc', **GRID, created='2024-05-03T00:00:00Z')
    for asset in item.assets.values():
        asset.extra_fields.update({'raster:bands': [dict(nodata=-32768, unit='dB')], 'file:size': 10,
                                   'file:checksum': '1220ab', 'sar:polarizations': ['VV']})
    return item.to_dict()

def planned(items):
    "Everything that is done with items before an image is read"
    frames = frames_of('made', items)
    due_passes(frames, date(2024, 5, 20))
    plan_cube(frames, PLACE, ENGA)
    cube_grid(PLACE, native=native_grid(frames))

def test_items():
    campaign('STAC items', odd_json(product('14')), lambda item: planned([product('26'), item]))

def gridded(words):
    "A box and its grid; the grid holds every corner of the box, within a hundredth of a pixel"
    box = read_box(words)
    grid = cube_grid(box)
    left, bottom, right, top = grid.boundingbox.bbox
    to_grid = Transformer.from_crs(4326, grid.crs.proj, always_xy=True)
    for lon, lat in itertools.product((box.west, box.east), (box.south, box.north)):
        x, y = to_grid.transform(lon, lat)
        assert left - .1 <= x <= right + .1 and bottom - .1 <= y <= top + .1, (box, x, y)

def test_words_of_a_box():
    number = st.one_of(st.floats(), st.integers(), st.text(max_size=5), st.none(), st.floats(-180, 180))
    lon, lat = st.integers(-1850, 3650).map(lambda n: n/10), st.integers(-910, 910).map(lambda n: n/10)
    side = st.floats(0, 2)
    square = st.tuples(lon, lat, side, side).map(lambda o: (o[0], o[1], o[0] + o[2], o[1] + o[3]))
    cases = st.one_of(st.text(max_size=30), st.lists(number, max_size=6), square, square,
                      square.map(lambda o: ' '.join(map(str, o))))
    campaign('box', cases, gridded)

@pytest.fixture(scope='module')
def api(tmp_path_factory):
    "A catalogue without items that answers a search with `api.says`"
    from pystac import Catalog, CatalogType
    folder = tmp_path_factory.mktemp('archive')
    empty = Catalog('made', 'made up')
    empty.normalize_and_save(str(folder), CatalogType.SELF_CONTAINED)
    with serve_catalog(folder) as api:
        api.faults.append(lambda request: Answer(200, api.says, 'application/json')
                          if request.path == '/search' else None)
        yield api

def test_pages(api):
    page = dict(type='FeatureCollection', features=[product('14'), product('26')],
                links=[dict(rel='self', href=api.url)], numberMatched=2)
    def door(data):
        api.says = data
        planned(search_pages(api.url, dict(bbox=[143, -6, 144, -5]), Patience(0, 0, 5, 3)))
    odd = odd_json(page).map(lambda value: json.dumps(value).encode())
    campaign('page of a STAC API', st.one_of(odd, odd, spoiled(json.dumps(page).encode())), door)
