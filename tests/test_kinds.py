"""Cubes as other programs write them, and as people spoil them: each either makes the right pair, with a line where something was put right,
or is refused in one sentence. Programs: SNAP, Earth Engine, HyP3, openEO, OPERA. One row is one kind."""
import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from landslide_nb.core import CubeError, CubeWarning
from landslide_nb.data.cube import open_cube
from landslide_nb.data.pair import log_ratio, make_pair
from landslide_nb.testing import mock_cube

pytestmark = pytest.mark.filterwarnings('ignore:Use `@` matmul:PendingDeprecationWarning', 'ignore::landslide_nb.core.CubeWarning')

EVENT = ('2018-09-05', '2018-09-07')
BANDS = ('vv', 'vh')
CLOCKS = dict(a='T084748', d='T204213') # UTC of an ascending and a descending pass at 142 degrees east

def raw(): return mock_cube((96, 128))

def scored(source):
    "The log-ratio of the pair that a source makes"
    return log_ratio(make_pair(open_cube(source), EVENT)).score.values

@pytest.fixture(scope='module')
def right(): return scored(raw())

def bands(ds, change): return ds.assign({o: change(ds[o]).transpose(*ds[o].dims).astype('float32') for o in BANDS})

def after(ds): return xr.DataArray(ds.timestep.values.astype(str) > '20180906', dict(timestep=ds.timestep), 'timestep')

def one(ds, k): return ds.timestep == ds.timestep[k]

def of_some(which, change):
    "Change the passes that `which` chooses"
    return lambda ds: bands(ds, lambda band: xr.where(which(ds), change(band), band))

def fourth(ds): return one(ds, 6)  # before the event
def fifth(ds): return one(ds, 9)   # after it
def to_db(power): return 10*np.log10(power)
def to_amplitude(power): return np.sqrt(power)

def exchanged(ds):
    there = fifth(ds)
    return ds.assign(vv=xr.where(there, ds.vh, ds.vv).transpose(*ds.vv.dims),
                     vh=xr.where(there, ds.vv, ds.vh).transpose(*ds.vh.dims))

def clocked(ds):
    labels = [f'{day}{CLOCKS[o]}' for day, o in zip(ds.timestep.values, ds['sat:orbit_state'].values)]
    return ds.assign_coords(timestep=labels)

def in_local_time(ds):
    times = pd.to_datetime(clocked(ds).timestep.values) + pd.Timedelta('9h')
    return ds.assign_coords(timestep=times.strftime('%Y%m%dT%H%M%S'))

def turned_orbits(ds):
    others = ['a' if o == 'd' else 'd' for o in ds['sat:orbit_state'].values]
    return clocked(ds).assign_coords({'sat:orbit_state': ('timestep', others)})

def along(ds, name, values): return ds.drop_vars('sat:orbit_state').assign_coords({name: ('timestep', values)})

def in_degrees(ds, x, y): return ds.drop_vars('spatial_ref').assign_coords(x=x, y=y).rio.write_crs('EPSG:4326')

X, Y = np.arange(128.), np.arange(96.)[::-1]
DIRECTIONS = np.where(raw()['sat:orbit_state'].values == 'a', 'ASCENDING', 'DESCENDING')

REFUSED = { # what is wrong: how to make it so, what the sentence says
    'one pass before in dB': (of_some(fourth, to_db), r'the pass of 2018-09-04 looks like dB'),
    'one pass after in dB': (of_some(fifth, to_db), r'the pass of 2018-09-08 looks like dB'),
    'passes after in dB': (of_some(after, to_db), r'looks like dB'),
    'one pass an amplitude': (of_some(fifth, to_amplitude), r'the pass of 2018-09-08 looks like amplitude .* that of .* like power'),
    'passes after as amplitude': (of_some(after, to_amplitude), r'looks like amplitude .* square it'),
    'passes before as amplitude': (of_some(lambda ds: ~after(ds), to_amplitude), r'looks? like amplitude'),
    'polarisations of one pass exchanged': (exchanged, r'VV and VH of the pass of 2018-09-08 look exchanged .* correct their names'),
    'polarisations of all passes exchanged': (lambda ds: ds.assign(vv=ds.vh, vh=ds.vv), r'look like amplitude'),
    'VV in the place of VH': (lambda ds: ds.assign(vh=ds.vv), r'look like amplitude'),
    'one pass not calibrated': (of_some(fifth, lambda power: power*1e4), r'is 40 dB brighter than that of'),
    'passes after not calibrated': (of_some(after, lambda power: power*1e4), r'is 40 dB brighter than that of .* calibrate all passes'),
    'VV alone in dB': (lambda ds: ds.assign(vv=to_db(ds.vv)), 'vv looks like dB'),
    'VH alone in dB': (lambda ds: ds.assign(vh=to_db(ds.vh)), 'vh looks like dB'),
    'dB without their sign': (lambda ds: bands(ds, lambda power: abs(to_db(power))), 'looks like digital numbers'),
    'dB as hundredths in 16 bits': (lambda ds: ds.assign({o: (to_db(ds[o])*100).round().astype('int16') for o in BANDS}), 'looks like dB'),
    'dB stretched to 8 bits': (lambda ds: ds.assign(
        {o: ((to_db(ds[o]) + 25)*10).clip(0, 255).astype('uint8') for o in BANDS}), 'looks like digital numbers'),
    'dB stretched to 0 and 1': (lambda ds: bands(ds, lambda power: ((to_db(power) + 25)/25).clip(0, 1)), 'look like amplitude'),
    'natural logarithm': (lambda ds: bands(ds, np.log), 'looks like dB'),
    'power as ten thousandths': (lambda ds: ds.assign(
        {o: (ds[o]*1e4).round().clip(0, 65534).astype('uint16') for o in BANDS}), 'looks like digital numbers'),
    'units say amplitude': (lambda ds: bands(ds, lambda b: b*.3).assign(vv=ds.vv.assign_attrs(units='amplitude')),
                            'vv in .* holds amplitude, as its attribute units says; square'),
    'unit says DN': (lambda ds: ds.assign(vh=ds.vh.assign_attrs(unit='DN')),
                     'vh in .* holds digital numbers, as its attribute unit says; calibrate'),
    'Amplitude_VV of SNAP': (lambda ds: ds.rename(vv='Amplitude_VV', vh='Amplitude_VH'),
                             'Amplitude_VV in the dataset holds amplitude, as its name says'),
    'Gamma0_VV_db of SNAP': (lambda ds: bands(ds, to_db).rename(vv='Gamma0_VV_db', vh='Gamma0_VH_db'), 'vv looks like dB'),
    'VV of two directions': (lambda ds: ds.rename(vv='vv_asc', vh='vh_asc').assign(vv_dsc=ds.vv), 'holds VV as vv_asc, vv_dsc; keep one'),
    'HH and HV': (lambda ds: ds.rename(vv='hh', vh='hv'), 'has no vv'),
    'coherence in the place of backscatter': (lambda ds: ds.rename(vv='coherence_vv', vh='coherence_vh'), 'has no vv'),
    'text': (lambda ds: ds.assign({o: ds[o].astype(str) for o in BANDS}), 'a cube needs real numbers'),
    'true and false': (lambda ds: ds.assign({o: ds[o] > .1 for o in BANDS}), 'a cube needs real numbers'),
    'NaN in x': (lambda ds: ds.assign_coords(x=ds.x.where(X != 5)), r'x has no coordinate in 1 of 128 places \(the first is 5\)'),
    'NaN at the end of y': (lambda ds: ds.assign_coords(y=ds.y.where(Y > 0)), r'y has no coordinate in 1 of 96 places'),
    'no number in y': (lambda ds: ds.assign_coords(y=ds.y*np.nan), r'y has no coordinate in 96 of 96 places'),
    'infinity in x': (lambda ds: ds.assign_coords(x=ds.x.where(X != 5, np.inf)), r'x has no coordinate in 1 of 128'),
    'words along y': (lambda ds: ds.assign_coords(y=[f'row {k}' for k in range(96)]), r'y holds <U\d+ instead of numbers'),
    'a coordinate twice': (lambda ds: ds.assign_coords(x=np.where(X == 5, ds.x[4], ds.x)), 'x is not evenly spaced'),
    'pixels counted': (lambda ds: ds.assign_coords(x=X, y=Y[::-1]), 'x and y count pixels'),
    'middles of pixels counted': (lambda ds: ds.assign_coords(x=X + .5, y=Y + .5), 'x and y count pixels'),
    'degrees said to be metres': (lambda ds: ds.assign_coords(x=142 + X*1e-4, y=42 + Y*1e-4), r'pixels of 0\.0001 m in EPSG:32654'),
    'latitude and longitude exchanged': (lambda ds: in_degrees(ds, 42 + X*1e-4, 142 + Y*1e-4), 'correct its CRS'),
    'seconds since 1970': (lambda ds: ds.assign_coords(timestep=np.arange(16)*500_000 + 1_533_000_000),
                           'are not dates'),
    'year and day of the year': (lambda ds: ds.assign_coords(timestep=np.arange(16)*6 + 2018200), 'are not dates'),
    'month first': (lambda ds: ds.assign_coords(
        timestep=[pd.Timestamp(str(o)).strftime('%m/%d/%Y') for o in ds.timestep.values]), 'are not dates'),
    'names of products as labels': (lambda ds: ds.assign_coords(
        timestep=[f'S1A_IW_GRDH_1SDV_{o}T084748' for o in ds.timestep.values]), 'are not dates'),
    'a label in dB': (lambda ds: ds.assign(landslides=xr.where(ds.landslides > 0, -3., -30.)), 'landslides has no value'),
}

@pytest.mark.parametrize('kind', REFUSED)
def test_refused_in_one_sentence(kind):
    change, says = REFUSED[kind]
    with pytest.raises(CubeError, match=says) as found: make_pair(open_cube(change(raw())), EVENT)
    assert str(found.value).endswith('.') and '\n' not in str(found.value) and len(str(found.value)) < 400

OPENED = { # what is unusual: how to make it so, part of the line that is said ('' : nothing needs to be said)
    'VV_1 of Earth Engine': (lambda ds: ds.rename(vv='VV_1', vh='VH_1'), 'VV_1, VH_1 are read as vv, vh'),
    'Sigma0_VV of SNAP': (lambda ds: ds.rename(vv='Sigma0_VV', vh='Sigma0_VH'), 'Sigma0_VV, Sigma0_VH are read as vv, vh'),
    'Intensity_VV of SNAP': (lambda ds: ds.rename(vv='Intensity_VV', vh='Intensity_VH'), 'are read as vv, vh'),
    'a second VV beside vv': (lambda ds: ds.assign(Sigma0_VV=ds.vv*.5), ''),
    'coherence beside Sigma0': (lambda ds: ds.rename(vv='Sigma0_VV', vh='Sigma0_VH').assign(coherence_VV=ds.vv),
                                'Sigma0_VV, Sigma0_VH are read'),
    'axis t of openEO': (lambda ds: ds.drop_dims('timepair').rename(timestep='t'), ''),
    'bands of openEO in an array': (lambda ds: ds[['vv', 'vh']].to_dataarray('bands').rename(timestep='t'), ''),
    'orbit of Earth Engine': (lambda ds: along(ds, 'orbitProperties_pass', DIRECTIONS), ''),
    'track of Earth Engine': (lambda ds: ds.assign_coords(
        relativeOrbitNumber_start=('timestep', np.where(DIRECTIONS == 'ASCENDING', 46., 9.))), ''),
    'units still say dB': (lambda ds: ds.assign({o: ds[o].assign_attrs(units='dB') for o in BANDS}), ''),
    'half precision': (lambda ds: ds.assign({o: ds[o].astype('float16') for o in BANDS}), ''),
    'double precision': (lambda ds: ds.assign({o: ds[o].astype('float64') for o in BANDS}), ''),
    'big-endian': (lambda ds: ds.assign({o: ds[o].astype('>f4') for o in BANDS}), ''),
    'another calibration': (lambda ds: bands(ds, lambda power: power*3), ''),
    'passes after 3 dB brighter': (of_some(after, lambda power: power*2), ''),
    'y upwards': (lambda ds: ds.isel(y=slice(None, None, -1)), ''),
    'time backwards': (lambda ds: ds.isel(timestep=slice(None, None, -1)), ''),
    'a pass given twice': (lambda ds: xr.concat([ds, ds.isel(timestep=[0, 5])], 'timestep', data_vars='minimal'),
                           '18 frames are 16 passes'),
    'coordinates in single precision': (lambda ds: ds.assign_coords(x=ds.x.astype('float32'), y=ds.y.astype('float32')), ''),
    'degrees': (lambda ds: in_degrees(ds, 142 + X*1e-4, 42 + Y*1e-4), ''),
    'degrees from 0 to 360': (lambda ds: in_degrees(ds, 288 + X*1e-4, 42 + Y*1e-4), ''),
    'pixels that are not square': (lambda ds: ds.assign_coords(y=4_730_000 - 20*np.arange(96.)), ''),
    'times in local time': (in_local_time, '16 of 16 passes are at times when Sentinel-1 does not pass'),
    'directions that the clock contradicts': (lambda ds: turned_orbits(ds).isel(timestep=slice(None)), 'pass at the time of day of'),
    'a label that is turned round': (lambda ds: ds.assign(landslides=xr.where(ds.landslides > 0, 0, 1)),
                                     "landslides covers 96% of the label's pixels"),
    'a label of 1 everywhere': (lambda ds: ds.assign(landslides=ds.landslides.fillna(1)), 'landslides covers 100%'),
    'a label of 1 for stable and 2 for landslide': (
        lambda ds: ds.assign(landslides=xr.where(ds.landslides > 0, 2, 1)), 'landslides covers 100%'),
    'a label of shares': (lambda ds: ds.assign(landslides=ds.landslides.fillna(0)*.2), 'landslides holds 0.2 (463 px) besides'),
    'a label of numbers of polygons': (lambda ds: ds.assign(landslides=ds.landslides.fillna(0)*7), 'landslides holds 7 (463 px) besides'),
    'a label of true and false': (lambda ds: ds.assign(landslides=ds.landslides > 0), ''),
}
OTHER_ORBIT = ('times in local time', 'directions that the clock contradicts') # these call the same passes by the other name

@pytest.mark.parametrize('kind', OPENED)
def test_opened_as_it_is_meant(kind, right):
    change, says = OPENED[kind]
    with warnings.catch_warnings(record=True, action='always') as said: found = scored(change(raw()))
    sentences = [str(o.message) for o in said if o.category is CubeWarning]
    if says: assert sum(says in o for o in sentences) == 1, sentences
    else: assert sentences == []
    if kind not in OTHER_ORBIT or found.shape != right.shape: np.testing.assert_allclose(found, right, atol=.05)

COPIES = {
    'a pass after is a copy of one before': lambda ds: bands(ds, lambda b: xr.where(one(ds, 9), b.isel(timestep=6), b)),
    'all passes are copies of one': lambda ds: bands(ds, lambda b: b*0 + b.isel(timestep=0)),
}

@pytest.mark.parametrize('kind', COPIES)
def test_copies_are_said(kind):
    with pytest.warns(CubeWarning, match='hold the same image.*check whether one is a copy'):
        make_pair(open_cube(COPIES[kind](raw())), EVENT)

def strip(value, of=BANDS, passes=after):
    "The western 20 columns of some passes hold a number"
    def change(ds):
        there = (ds.x < ds.x[20]) & passes(ds)
        return ds.assign({o: xr.where(there, value, ds[o]).transpose(*ds[o].dims).astype('float32') for o in of})
    return change

STRIPS = { # what fills a border that is no ground
    'noise of the border': strip(1e-6),
    'a number less than nothing': strip(-1e-7),
    'ones in both': strip(1.),
    'a whole number in both': strip(2.),
    'zeros in VH alone': strip(0., ['vh']),
    'zeros in VV alone': strip(0., ['vv']),
    'zeros in VH of one pass': strip(0., ['vh'], fifth),
}

@pytest.mark.parametrize('kind', STRIPS)
@pytest.mark.parametrize('lazy', [False, True])
def test_what_fills_a_border_is_no_change(kind, lazy, right):
    "The strip is no data, or of the other passes; it was a change of 6 to 30 dB"
    spoilt = STRIPS[kind](raw())
    found = scored(spoilt.chunk(timestep=1, y=96, x=64) if lazy else spoilt)
    inside = found[:, :20]
    assert np.isnan(inside).all() or np.nanmax(abs(inside)) < 1.5*np.nanmax(abs(right[:, :20]))
    np.testing.assert_allclose(found[:, 20:], right[:, 20:], atol=.3)

def tif(layer, path): layer.drop_vars(['time', 'orbit']).rio.to_raster(path)

HYP3 = 'S1A_IW_{}_DVP_RTC10_G_{}_1A2B'
FILES = { # what is in the name of each file: what the sentence says
    HYP3.format('%Y%m%dT%H%M%S', 'gaufem'): 'holds amplitude, as its name says; square them',
    '%Y%m%d_amp': 'holds amplitude, as its name says',
    'amplitude_%Y-%m-%d': 'holds amplitude, as its name says',
    '%Y%m%d_DN': 'holds digital numbers, as its name says; calibrate',
}

@pytest.mark.parametrize('name', FILES)
def test_names_of_geotiffs_that_say_a_unit(name, tmp_path):
    cube = open_cube(clocked(raw()))
    for k in range(4):
        stem = pd.Timestamp(cube.time.values[k]).strftime(name)
        for o in BANDS: tif(cube[o][k]*.3, tmp_path/f'{stem}_{o.upper()}.tif') # dark forest
    with pytest.raises(CubeError, match=FILES[name]): open_cube(tmp_path)

def test_bands_of_a_geotiff_that_say_a_unit(tmp_path):
    cube = open_cube(raw())
    for k in range(2):
        layers = xr.concat([cube[o][k].drop_vars(['time', 'orbit']) for o in BANDS], 'band')
        layers.assign_attrs(long_name=('VV amplitude', 'VH amplitude')).rio.to_raster(tmp_path/f'2018090{k + 1}.tif')
    with pytest.raises(CubeError, match='band VV amplitude of .*20180901.tif holds amplitude'): open_cube(tmp_path)

def test_a_command_refuses_before_anything_is_mapped(tmp_path):
    from conftest import command, one_sentence
    of_some(fifth, to_amplitude)(raw()).to_netcdf(tmp_path/'cube.nc')
    out = command('map', 'cube.nc', '--start', EVENT[0], '--end', EVENT[1], '--out', 'run', cwd=tmp_path)
    one_sentence(out, 'the pass of 2018-09-08 looks like amplitude')
    assert not list((tmp_path/'run').glob('*'))
