"""Simulated ground: embedded events stay as they are; in random regions null pairs tell what the event will show."""
from dataclasses import replace

import numpy as np
import pytest

from landslide_nb.data.landscape import REGIONS
from landslide_nb.data.simulate import simulate_event
from landslide_nb.realism import exceedance, point_windows, regions_windows, steps, variation
from landslide_nb.weights.base import MUCH_AT_ONCE, random_cube, random_pair, random_region

# pixels [1:3, 5::40, 7::80] of the second and third of four descending passes, linear power, and all landslide pixels
PIXELS = {
    ('demo_a', 0): (
        [0.13543, 0.068349, 0.25936, 0.10312, 0.18495, 0.23025, 0.14302, 0.10675, 0.12364, 0.073936, 0.17509,
         0.13324, 0.097968, 0.11924, 0.23074, 0.10551],
        [0.026307, 0.015596, 0.066495, 0.051164, 0.079506, 0.024952, 0.055463, 0.064011, 0.047655, 0.013298,
         0.062866, 0.016108, 0.025901, 0.042656, 0.045099, 0.044941],
        431),
    ('demo_b', 1): (
        [0.19078, 0.085885, 0.14086, 0.12025, 0.22281, 0.10359, 0.12922, 0.1521, 0.14503, 0.20874, 0.13086,
         0.17081, 0.036031, 0.070843, 0.13385, 0.10178],
        [0.021324, 0.046388, 0.057774, 0.028299, 0.042514, 0.031981, 0.059444, 0.062278, 0.038039, 0.030829,
         0.017946, 0.025808, 0.053699, 0.027105, 0.023608, 0.0066843],
        521),
}

@pytest.mark.parametrize(('region', 'seed'), PIXELS)
def test_embedded_events_keep_their_pixels(region, seed):
    cube = simulate_event(region, seed, 128, passes=2, orbits='descending')
    vv, vh, slid = PIXELS[region, seed]
    for layer, wanted in ((cube.vv, vv), (cube.vh, vh)):
        np.testing.assert_allclose(layer.values[1:3, 5::40, 7::80].ravel(), wanted, rtol=1e-3)
    assert int(cube.landslides.sum()) == slid

def test_embedded_regions_change_at_the_event_only():
    assert not any(region.any_time for region in REGIONS.values())
    assert np.isclose(np.mean([not random_region(seed).any_time for seed in range(400)]), MUCH_AT_ONCE, atol=.08)

def usual(seeds):
    "Those of random regions where not much is felled and harvested at once"
    return [seed for seed in seeds if random_region(seed).any_time]

@pytest.mark.parametrize('passes', [(9, 1), (1, 3), 2])
def test_passes_before_and_after(passes):
    cube = simulate_event(random_region(3), 3, 96, passes=passes, orbits='ascending')
    before, after = (passes, passes) if isinstance(passes, int) else passes
    assert len(cube.time) == before + after
    whole = simulate_event(random_region(3), 3, 96, passes=(9, 3), orbits='ascending')
    assert whole.sel(time=cube.time).vv.identical(cube.vv)

def test_a_random_pair_is_made_of_the_random_cube():
    cube, pair = random_cube(5, 96), random_pair(5, 96)
    assert len(cube.time) == len(pair.passes_pre) + len(pair.passes_post)
    assert np.array_equal(cube.landslides, pair.landslides)
    assert (pair.pixel, pair.speckle_filter) == (cube.pixel, cube.speckle_filter)
    assert len(random_cube(5, 96, before=8, after=2).time) == 10

def test_null_pairs_of_random_regions_tell_what_the_event_shows():
    """As often outside landslides as null pairs say, on average over regions.
    With all change at the event, as the embedded regions have it, the median of such regions was 8.8."""
    found = [exceedance(seed, 96) for seed in usual(range(7100, 7150))]
    assert .2 < np.nanmedian(found) < 1.5
    assert .3 < np.nanmean(found) < 3

def test_ground_that_changes_at_the_event_only_is_found_out(monkeypatch):
    from landslide_nb import realism
    def at_the_event(seed): return replace(random_region(seed), any_time=False, harvest=.3, clearcut=.1)
    monkeypatch.setattr(realism, 'random_region', at_the_event)
    assert np.nanmedian([exceedance(seed, 96) for seed in range(7100, 7112)]) > 2

def test_random_regions_vary_as_real_series_do(shared):
    import pandas as pd
    real = variation(point_windows(pd.read_parquet(shared/'opera_point_series.parquet'))[0])
    windows, _ = regions_windows(usual(range(5200, 5267)), pixel=30., enl=9., speckle_tap=.05)
    ratio = variation(windows)/real
    assert ratio[['deviation, dB', 'step, dB']].between(.5, 1.6).all(), ratio
    apart = (variation(windows) - real)['memory'].abs()
    assert apart.max() < .15, apart

def test_steps_by_hand():
    power = np.full((1, 2, 4, 9), .1)
    power[0, 1, 3] = 1.
    assert np.allclose(steps(power)['VH'], [[10.]])
