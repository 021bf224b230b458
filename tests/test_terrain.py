"Heights, hidden ground and labels of real places: DEMs from five sources, and the landslides of Noto."
import json

import numpy as np
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from scipy.ndimage import maximum_filter

from landslide_nb.archive.terrain import crop_to, dem_on_grid, grid_axes, label_on_grid, layover_shadow, local_incidence
from landslide_nb.archive.terrain import terrain_layers, unseen_steep_share
from landslide_nb.core import CubeError
from landslide_nb.data.grid import read_polygons
from landslide_nb.data.pair import make_pair
from landslide_nb.gaps import unseen_of_map
from landslide_nb.look import FLIGHT, LAYOVER, SEEN, SHADOW
from landslide_nb.mapping.report import source_table
from landslide_nb.mapping.runfolder import map_attrs

@pytest.fixture(scope='module')
def folder(shared): return shared/'terrain'

def own_grid(path):
    "The grid of a raster"
    with rasterio.open(path) as f: return GeoBox(f.shape, f.transform, f.crs.to_string())

@pytest.fixture(scope='module')
def patagonia(folder): # slopes of 26 degrees in the median
    path = folder/'exploradores_aster_dem.tif'
    return dem_on_grid(own_grid(path), path)

def test_slopes_are_those_that_others_computed(folder):
    "Five bands: the slope of the one named elev is what the authors put into the first"
    path = folder/'ta.tif'
    dem, _ = dem_on_grid(own_grid(path), path)
    with rasterio.open(path) as f: theirs = f.read(1)
    off = abs(terrain_layers(dem).slope.values - theirs)
    assert np.nanpercentile(off, 95) < 1e-3

def test_degrees_become_metres_without_a_made_up_height(folder):
    path = folder/'srtm.tif' # uint16, EPSG:4326
    grid = GeoBox.from_bbox((300_000, 4_112_000, 330_000, 4_150_000), 'EPSG:32612', resolution=20)
    dem, said = dem_on_grid(grid, path)
    with rasterio.open(path) as f: heights = f.read(1, masked=True)
    assert heights.min() <= dem.min() and dem.max() <= heights.max()
    assert said == [f'{float(np.isnan(dem).mean()):.1%} of the grid has no height (sea, or a wider gap).']

def test_voids_of_a_radar_dem_are_filled_or_stay(patagonia):
    dem, said = patagonia # holds -9999
    assert float(dem.min()) > 300 and 0 < np.isnan(dem.values).mean() < .01
    assert [s.split(' ', 1)[1][:25] for s in said] == ['pixels in gaps of the DEM', 'of the grid has no height']

@pytest.mark.parametrize('orbit', FLIGHT)
def test_what_steep_mountains_hide(patagonia, orbit):
    "Slopes that alone decide are hidden, as far as the mask knows them; the nearer the radar the more layover, the farther the more shadow"
    dem, _ = patagonia
    slope = terrain_layers(dem).slope
    near, far = (layover_shadow(dem, orbit, incidence).values for incidence in (33., 43.))
    assert (near == LAYOVER).mean() > 1.5*(far == LAYOVER).mean()
    assert (far == SHADOW).mean() > 1.5*(near == SHADOW).mean()
    grazed = local_incidence(dem, orbit, 43.).values > 95
    beside = maximum_filter(far == SHADOW, 3) # a crest is lit, and the ground falls away from it
    assert grazed.sum() > 100 and beside[grazed].mean() > .97
    assert .2 < unseen_steep_share(dem.copy(data=far), slope) < .3

def test_two_directions_see_more_than_one(patagonia):
    dem, _ = patagonia
    seen = [layover_shadow(dem, orbit, 38.).values == SEEN for orbit in FLIGHT]
    assert (seen[0] | seen[1]).mean() > max(o.mean() for o in seen) + .1

def test_mountains_outside_hide_ground_inside(patagonia, folder):
    path = folder/'exploradores_aster_dem.tif'
    part = own_grid(path)[200:400, 60:160]
    wide, _ = dem_on_grid(part, path, margin=3000.)
    whole = layover_shadow(patagonia[0], 'descending', 40.).values[200:400, 60:160]
    with_margin = crop_to(layover_shadow(wide, 'descending', 40.), part).values
    alone = layover_shadow(crop_to(wide, part), 'descending', 40.).values
    def missed(mask): return int(((whole != SEEN) & ~maximum_filter(mask != SEEN, 3)).sum()) # by more than a pixel
    assert missed(with_margin) < 20 and missed(alone) > 4*missed(with_margin)

def test_another_place_is_refused(folder):
    with pytest.raises(CubeError, match='No height of'): dem_on_grid(own_grid(folder/'dem.tif'), folder/'srtm.tif')

def test_noto_becomes_a_label(shared):
    slides, extent = (shared/'inventories'/f'{name}_{day}_nanao.fgb' for name, day in (('hokai_all', 20240118), ('IdentifyArea', 20240109)))
    polygons = read_polygons(slides, 'EPSG:32653')
    west, south, east, north = np.array([o.bounds for o in polygons]).T
    grid = GeoBox.from_bbox((west.min() - 500, south.min() - 500, east.max() + 500, north.max() + 500), 'EPSG:32653',
                            resolution=10)
    label, (said,) = label_on_grid(grid, slides, extent)
    area = sum(o.area for o in polygons)
    assert label.shape == (grid_axes(grid).sizes['y'], grid_axes(grid).sizes['x'])
    assert float((label == 1).sum())*100 == pytest.approx(area, rel=.1)
    assert f'{int((label == 1).sum()):,} landslide pixels' in said


# From a catalogue

@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "A steep simulated place as a catalogue offers it, and the cube that was built from it"
    from landslide_nb.archive.build import build_cube
    from landslide_nb.data.cube import open_cube
    from landslide_nb.data.events import event_cube
    from landslide_nb.loopback import serve_catalog
    from landslide_nb.radar_items import write_catalog
    folder = tmp_path_factory.mktemp('built')
    event = event_cube('demo_b', size=224)
    event = event.assign(dem=event.dem*1.8)
    write_catalog([event], folder/'catalogue')
    west, south, east, north = event.rio.transform_bounds('EPSG:4326')
    inset = (east - west)/4
    box = west + inset, south + inset, east - inset, north - inset
    with serve_catalog(folder/'catalogue') as api:
        path = build_cube(box, event.event_start, event.event_end, folder/'cube.zarr', source=api.url, archive='none')
    return open_cube(path)

def test_a_built_cube_is_blind_where_its_track_is(built):
    hidden = np.isnan(built.vv.isel(time=0).values)
    share = float(hidden[built.slope.values >= 20].mean())
    assert .02 < share < .7
    assert json.loads(built.unseen) == pytest.approx({str(int(built.track[0])): share}, abs=.005)

def test_its_map_says_so(built):
    pair = make_pair(built)
    said = unseen_of_map(map_attrs(pair))
    assert said.startswith(f'track {pair.track} ({pair.orbit}) cannot see') and said.endswith('steeper than 20 degrees')
    assert said in source_table(map_attrs(pair))
