"""Do the intervals of areas hold where landslides are commoner or rarer, and at another event, than where a model was calibrated?

    python -m benchmarks.shift [--model MODEL.safetensors] [--seeds 2] [--out shift.csv]

The network is the shipped one, or any of two channels; only its calibration is fitted, on the labelled chips of one place,
and then used unchanged on other places: of the same or the other embedded region, with a third, the same and three times the
landslides. Places are simulated with seeds that no experiment uses. Ten minutes on one core; nothing is trained.
"""
import argparse
from dataclasses import replace
from itertools import product
from tempfile import TemporaryDirectory

import pandas as pd

from landslide_nb.learn.calibration import calibrate, expected_calibration_error
from landslide_nb.learn.uncertainty import area_interval, errors_at_place, fit_chips
from landslide_nb.data.chips import make_chips
from landslide_nb.data.pair import make_pair
from landslide_nb.learn.finetune import predict_chips, truth_of
from landslide_nb.learn.metrics import chip_counts
from landslide_nb.learn.models import BASE_WEIGHTS, load_model, read_header
from landslide_nb.data.landscape import REGIONS
from landslide_nb.data.simulate import simulate_event

# errors of the shipped weights from one random region to the next
SCENES = read_header(BASE_WEIGHTS)['calibration']['area']['scenes']
SIZE = 1536 # side of a place, px
CHIP = 128  # side of a chip, px
BLOCK = 384 # side of a block of chips, px
TIMES = (1/3, 1, 3) # share of landslides against the region's own
FIRST = 11 # seed of the first place

def place_pair(region, times, seed):
    "The pair of a place of a region, with some times its landslides"
    own = REGIONS[region]
    changed = replace(own, share=own.share*times, extent=min(1., own.extent*max(1, times)))
    return make_pair(simulate_event(changed, seed, SIZE, passes=3, orbits=('ascending',)), passes=3)

def place(region, times, seed, model):
    "A place of a region as a model sees it: (logits, truth, block), (n, H, W) each and (n,)"
    pair = place_pair(region, times, seed)
    with TemporaryDirectory() as tmp:
        chips = make_chips(pair, f'{tmp}/chips', CHIP, CHIP)
        rows = list(range(len(chips)))
        row, col = chips.table[['row', 'col']].to_numpy().T//BLOCK
        return predict_chips(model, chips, rows).numpy(), truth_of(chips, rows).numpy(), row*1000 + col

def chips_held(name, counts, errors):
    "How often intervals of chips hold the truth, and how wide they are"
    low, high = area_interval(counts.predicted, counts.pixels, errors)
    held = (low <= counts.true) & (counts.true <= high)
    return {f'{name}_held': held.mean(), f'{name}_width_px': (high - low).mean()}

def scene_held(name, counts, errors):
    "Whether the interval of the place as a whole holds the truth: 1 or 0"
    low, high = area_interval(counts.predicted.sum(), counts.pixels.sum(), errors)
    return {f'{name}_scene_held': float(low <= counts.true.sum() <= high)}

def coverage(calibration, seen):
    "How often intervals of chips, and of a place as a whole, hold the truth: as calibrated, with `errors_at_place`, and with the errors for another event"
    logits, truth, _ = seen
    prob = calibrate(logits, calibration)
    counts = chip_counts(prob, truth)
    here = errors_at_place(calibration['area'], counts.predicted, counts.pixels)
    elsewhere = {**here, 'scenes': SCENES}
    out = dict(true_px=int(counts.true.sum()), expected_px=round(float(counts.predicted.sum())))
    out['ece'] = expected_calibration_error(prob, truth)
    for name, errors in (('calibrated', calibration['area']), ('place', here)):
        out |= chips_held(name, counts, errors) | scene_held(name, counts, errors)
    return out | scene_held('elsewhere', counts, elsewhere)

def rows_of(name, calibration, places, own=None):
    "A row a place that a calibration is used in, but for the one it was fitted on"
    rows = []
    for key, seen in places.items():
        if key == own: continue
        region, times, seed = key
        where = region
        if own: where = 'same region' if region == own[0] else 'other region'
        row = dict(calibrated_on=name, place=where, times=round(times, 2), seed=seed)
        rows.append(row | coverage(calibration, seen))
    return rows

def study(model, seeds=2):
    "A row a calibration and a place it was used in"
    from tqdm import tqdm
    net, seeds = load_model(model), range(FIRST, FIRST + seeds)
    keys = list(product(REGIONS, TIMES, seeds))
    places = {key: place(*key, net) for key in tqdm(keys, desc='places')}
    rows = []
    for region, seed in product(REGIONS, seeds):
        own = region, 1, seed
        rows += rows_of(f'{region}, seed {seed}', fit_chips(*places[own]), places, own)
    shipped = net[1].get('calibration') or {}
    if shipped.get('area'): rows += rows_of('shipped', shipped, places)
    return pd.DataFrame(rows)

def main():
    "Write all rows, and print their means"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--model', default=str(BASE_WEIGHTS), help='stage-2 model (default: the shipped one)')
    p.add_argument('--seeds', type=int, default=2, help='places of each kind')
    p.add_argument('--out', default='shift.csv', help='table of all rows')
    args = p.parse_args()
    table = study(args.model, args.seeds)
    table.to_csv(args.out, index=False)
    kind = table.calibrated_on.str.replace(', seed.*', '', regex=True)
    means = table.groupby([kind, 'place', 'times']).mean(numeric_only=True)
    print(means.drop(columns='seed').round(3).to_string())

if __name__ == '__main__': main()
