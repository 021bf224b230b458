"Polygons are measured window by window, all at the same time; here they are compared with one that is looked at after the other."
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import rioxarray # noqa: F401 (gives arrays their `rio`)
import xarray as xr
from rasterio.features import geometry_mask, shapes
from scipy.ndimage import gaussian_filter
from shapely import make_valid
from shapely.affinity import affine_transform
from shapely.geometry import shape

from landslide_nb.data.grid import pixel_area, pixel_sides
from landslide_nb.mapping.areas import landslide_polygons

def smooth(shape, size, seed):
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), size)
    return (noise/max(noise.std(), 1e-3)).astype('float32')

def scene(shape, degrees=False, **layers):
    "A map of many blobs of all sizes, a part without data, and terrain on the same grid"
    step = 1e-4 if degrees else 10.
    axes = dict(y=47 - step*np.arange(shape[0]), x=8 + step*np.arange(shape[1]))
    p = 1/(1 + np.exp(3 - 2*smooth(shape, 3, 1) - smooth(shape, 40, 2)))
    p[:shape[0]//5, :30] = np.nan
    prob = xr.DataArray(p.astype('float32'), axes, ('y', 'x')).rio.write_crs(4326 if degrees else 32632)
    layers = {name: (('y', 'x'), values) for name, values in layers.items()}
    return prob, prob.to_dataset(name='map').assign(layers)

def heights(shape):
    "Hills with a hole in their survey"
    dem = 300*smooth(shape, 60, 3)
    dem[40:60, -200:-100] = np.nan
    return dem

# One polygon after the other, in memory

def elongation(rows, cols, sides):
    metres = np.stack([rows*sides[0], cols*sides[1]])
    small, large = np.linalg.eigvalsh(np.cov(metres, ddof=0) + np.diag(np.square(sides))/12)
    return np.sqrt(large/small)

def terrain_of_scene(pair, sides):
    "Slope, and rise southward and eastward where both are known, of every pixel; None where there are none"
    slope = pair.slope.values if 'slope' in pair else None
    if 'dem' not in pair: return slope, None, None
    rise = np.array(np.gradient(pair.dem.values.astype(float), *sides))
    if slope is None: slope = np.degrees(np.arctan(np.hypot(*rise)))
    rise[:, np.isnan(rise).any(0)] = np.nan
    return slope, *rise

def mean(layer, window, inside):
    return np.nan if layer is None else pd.Series(layer[window][inside].astype(float)).mean()

def one_by_one(prob, threshold, min_area, pair):
    over, area, sides, t = prob.values >= threshold, pixel_area(prob), pixel_sides(prob), prob.rio.transform()
    slope, south, east = terrain_of_scene(pair, sides)
    found = []
    for outline, _ in shapes(over.astype('uint8'), over, connectivity=8):
        outline = make_valid(shape(outline))
        left, top, right, bottom = map(int, outline.bounds)
        window = slice(top, bottom), slice(left, right)
        inside = geometry_mask([outline], (bottom - top, right - left), rasterio.Affine.translation(left, top),
                               invert=True)
        rows, cols = np.nonzero(inside)
        p = prob.values[window][inside]
        found.append(dict(
            area_m2=area[window[0]][rows, 0].sum(),
            mean_probability=p.mean(dtype=float), max_probability=float(p.max()),
            elongation=elongation(rows, cols, sides), mean_slope=mean(slope, window, inside),
            downslope=np.degrees(np.arctan2(-mean(east, window, inside), mean(south, window, inside))) % 360,
            geometry=affine_transform(outline, [t.a, 0, 0, t.e, t.c, t.f])))
    table = gpd.GeoDataFrame(found, geometry='geometry', crs=prob.rio.crs)
    return table[table.area_m2 >= min_area]

def in_order(table):
    "Rows by the place of their outline"
    bounds = table.geometry.bounds.round(9)
    return table.iloc[np.lexsort(bounds.values.T)].reset_index(drop=True)

def assert_equal(found, wanted):
    found, wanted = in_order(found), in_order(wanted)
    assert list(found.columns) == list(wanted.columns) and found.crs == wanted.crs
    assert len(found) == len(wanted)
    assert (found.geometry.values == wanted.geometry.values).all()
    numbers = list(found.columns.drop('geometry'))
    np.testing.assert_allclose(found[numbers].astype(float), wanted[numbers].astype(float), rtol=1e-9, equal_nan=True)

SHAPE = 1060, 2090 # two rows and three columns of windows

@pytest.mark.parametrize('min_area', [0., 2000.])
def test_regions_across_seams_are_those_looked_at_one_by_one(min_area):
    prob, pair = scene(SHAPE, dem=heights(SHAPE))
    threshold = .75
    found = landslide_polygons(prob.chunk(y=500, x=700), threshold, min_area, pair)
    seams = [prob.rio.transform() @ at for at in ((1024, 1024), (2048, 0))]
    bounds = found.geometry.bounds
    across = ((bounds.minx < seams[0][0]) & (bounds.maxx > seams[0][0]) |
              (bounds.miny < seams[0][1]) & (bounds.maxy > seams[0][1]))
    assert across.sum() >= 10 and len(found) > 300
    assert found.mean_slope.notna().mean() > .9
    assert_equal(found, one_by_one(prob, threshold, min_area, pair))
    assert found.area_m2.is_monotonic_decreasing

CASES = {
    'neither heights nor slope': dict(),
    'slope alone': dict(slope=abs(smooth((260, 310), 9, 5))*20),
    'heights with a hole': dict(dem=heights((260, 310))),
    'both': dict(dem=heights((260, 310)), slope=abs(smooth((260, 310), 9, 5))*20),
}

@pytest.mark.parametrize('degrees', [False, True])
@pytest.mark.parametrize('case', CASES)
def test_terrain_and_degrees_in_small_windows(case, degrees, monkeypatch):
    "The same with windows of 64 px, of which many regions fill several"
    from landslide_nb.data.grid import scene_windows
    from landslide_nb.mapping import regions
    monkeypatch.setattr(regions, 'scene_windows', lambda shape: scene_windows(shape, 64))
    prob, pair = scene((260, 310), degrees, **CASES[case])
    assert_equal(landslide_polygons(prob, .3, 0, pair), one_by_one(prob, .3, 0, pair))

@pytest.mark.parametrize('share', [.1, .3, .5, .7, 1.])
def test_noise_that_touches_at_corners(share, monkeypatch):
    from landslide_nb.data.grid import scene_windows
    from landslide_nb.mapping import regions
    monkeypatch.setattr(regions, 'scene_windows', lambda shape: scene_windows(shape, 16))
    prob, pair = scene((70, 55))
    noise = prob.copy(data=np.random.default_rng(7).random(prob.shape, dtype='float32'))
    assert_equal(landslide_polygons(noise, 1 - share, 0), one_by_one(noise, 1 - share, 0, pair))

@pytest.mark.parametrize('shape', [(1, 40), (40, 1), (1, 1), (2, 2)])
def test_scenes_of_a_line_or_a_pixel(shape):
    prob, pair = scene(shape, dem=np.ones(shape))
    prob = prob.copy(data=np.ones(shape, 'float32')).rio.write_transform(rasterio.Affine(10, 0, 0, 0, -10, 0))
    found = landslide_polygons(prob, .5, 0, pair.rio.write_transform(prob.rio.transform()))
    assert len(found) == 1 and found.area_m2[0] == 100*prob.size
    assert found.downslope.isna().all() == (min(shape) < 2)
