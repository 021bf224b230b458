"Areas by design on the embedded event: over 500 draws, the truth as the person, the interval holds the truth as often as it says, and is narrow."
import json
import geopandas as gpd, numpy as np, pandas as pd, pytest
from scipy.stats import t as student
from conftest import command, one_sentence
from landslide_nb.data.events import event_cube
from landslide_nb.labelling.labels import save_decisions
from landslide_nb.labelling.sample import draw_chips, simulate_draws
from landslide_nb.labelling.suggest import (
    answer_by_truth, chips_of_map, chips_to_label, pixel_areas, run_probability, sums_over_chips)
from landslide_nb.mapping.mapping import map_cube

DRAWN = 30

def mapped(name, folder):
    "A first map of an embedded event: (run folder, its pair's truth)"
    cube = event_cube(name, 2048)
    map_cube(cube, 'base', folder, name, progress=False)
    return folder, cube.landslides

def sums_of(folder, truth):
    "What the map expects in each chip, and what is there, m2"
    prob = run_probability(folder)
    there = prob.copy(data=(truth.values == 1).astype('float32'))*pixel_areas(prob)
    return chips_of_map(prob).expected_m2.to_numpy(), sums_over_chips(there)

def chips_of(name, folder): return sums_of(*mapped(name, folder))

@pytest.fixture(scope='module')
def event(tmp_path_factory): return mapped('demo_a', tmp_path_factory.mktemp('event')/'run')

@pytest.fixture(scope='module')
def chips(event): return sums_of(*event)

def plain(expected, truth, draws=500, groups=5):
    "Widths of plain stratified sampling: six chips from each fifth of the chips, sorted by the map, no model"
    group, per, rng = np.argsort(np.argsort(expected))*groups//len(expected), DRAWN//groups, np.random.default_rng(0)
    sizes, widths = np.bincount(group), []
    for _ in range(draws):
        some = [rng.choice(truth[group == g], per, replace=False) for g in range(groups)]
        variance = sum(N**2*(1 - per/N)*o.var(ddof=1)/per for N, o in zip(sizes, some))
        widths.append(2*student.ppf(.95, DRAWN - groups)*variance**.5)
    return np.array(widths)

def test_intervals_are_narrow_and_estimates_unbiased(event, chips):
    found = simulate_draws(*chips, DRAWN, 500)
    width = (found.high - found.low).mean()
    metrics = json.loads((event[0]/'metrics.json').read_text())
    assert abs(found.area.mean()/chips[1].sum() - 1) < .03
    assert width <= .5*(metrics['expected_area_high_m2'] - metrics['expected_area_low_m2'])
    assert width <= .7*plain(*chips).mean()

def test_intervals_hold_the_truth_as_often_as_they_say(chips, tmp_path):
    "In the mean of both events; where the map misses whole chips, as in demo_a, a little less often"
    held = [simulate_draws(*some, DRAWN, 500).held.mean() for some in (chips, chips_of('demo_b', tmp_path/'run'))]
    assert .86 <= np.mean(held) <= .94 and min(held) >= .8, held

def test_commands_draw_and_estimate(event, chips, tmp_path):
    folder, truth = event
    one_sentence(command('area', folder, cwd=tmp_path), 'does not exist')
    out = command('label', folder, '--sample', DRAWN, '--seed', 3, cwd=tmp_path, cold=True)
    assert out.returncode == 0 and f'{DRAWN} chips to look at, drawn at random (seed 3)' in out.stdout, out.stderr[-2000:]
    drawn = chips_to_label(folder)
    assert drawn.chip.tolist() == draw_chips(folder, DRAWN, 3).chip.tolist()
    prob = run_probability(folder)
    save_decisions(folder, answer_by_truth(drawn, prob.copy(data=truth.values)))
    west, south, east, north = prob.rio.bounds()
    middle = (west + east)/2
    from shapely.geometry import box
    zones = gpd.GeoDataFrame(dict(name=['west', 'east']),
                             geometry=[box(west, south, middle, north), box(middle, south, east, north)],
                             crs=prob.rio.crs)
    zones.to_file(tmp_path/'zones.gpkg')
    out = command('area', folder, '--zones', 'zones.gpkg', '--out', 'areas.csv', cwd=tmp_path, cold=True)
    assert out.returncode == 0 and 'zone west' in out.stdout, out.stderr[-2000:]
    table = pd.read_csv(tmp_path/'areas.csv')
    scene = table.iloc[0]
    assert scene.low < chips[1].sum()/1e6 < scene.high
    assert np.isclose(table[table.kind == 'zone'].area_km2.sum(), scene.area_km2, rtol=1e-3)

def test_chips_that_teach_estimate_nothing(event, tmp_path):
    folder, truth = event
    out = command('label', folder, '--next', 4, cwd=tmp_path)
    assert out.returncode == 0, out.stderr[-2000:]
    teach = chips_to_label(folder).query('purpose == "teach"')
    assert len(teach) == 4
    from landslide_nb.labelling.labels import write_labels
    write_labels(answer_by_truth(teach, run_probability(folder).copy(data=truth.values)), tmp_path/'taught.gpkg')
    one_sentence(command('area', folder, '--labels', 'taught.gpkg', cwd=tmp_path), 'chosen to teach')
