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

SCENES = read_header(BASE_WEIGHTS)['calibration']['area']['scenes'] # errors of the shipped weights from one random region to the next
SIZE, CHIP, BLOCK, TIMES = 1536, 128, 384, (1/3, 1, 3) # px, px, px; share of landslides against the region's own

def place(region, times, seed, model):
    "A place of a region as a model sees it: (logits, truth, block), (n, H, W) each and (n,)"
    r = REGIONS[region]
    r = replace(r, share=r.share*times, extent=min(1., r.extent*max(1, times)))
    pair = make_pair(simulate_event(r, seed, SIZE, passes=3, orbits=('ascending',)), passes=3)
    with TemporaryDirectory() as tmp:
        chips = make_chips(pair, f'{tmp}/chips', CHIP, CHIP)
        rows, corner = range(len(chips)), chips.table[['row', 'col']].to_numpy()//BLOCK
        return predict_chips(model, chips, list(rows)).numpy(), truth_of(chips, rows).numpy(), corner[:, 0]*1000 + corner[:, 1]

def coverage(calibration, place):
    "How often intervals of chips, and of the place as a whole, hold the truth: as calibrated, with `errors_at_place`, and with the errors for another event"
    prob = calibrate(place[0], calibration)
    c = chip_counts(prob, place[1])
    out = dict(true_px=int(c.true.sum()), expected_px=round(float(c.predicted.sum())), ece=expected_calibration_error(prob, place[1]))
    here = errors_at_place(calibration['area'], c.predicted, c.pixels)
    for name, record in (('calibrated', calibration['area']), ('place', here), ('elsewhere', {**here, 'scenes': SCENES})):
        low, high = area_interval(c.predicted, c.pixels, record)
        if name != 'elsewhere': out |= {f'{name}_held': ((low <= c.true) & (c.true <= high)).mean(), f'{name}_width_px': (high - low).mean()}
        low, high = area_interval(c.predicted.sum(), c.pixels.sum(), record)
        out[f'{name}_scene_held'] = float(low <= c.true.sum() <= high)
    return out

def study(model, seeds=2):
    "A row a calibration and a place it was used in"
    from tqdm import tqdm
    net = load_model(model)
    names = list(product(REGIONS, TIMES, range(11, 11 + seeds)))
    places = {n: place(*n, net) for n in tqdm(names, desc='places')}
    rows = []
    for region, seed in product(REGIONS, range(11, 11 + seeds)):
        calibration = fit_chips(*places[region, 1, seed])
        rows += [dict(calibrated_on=f'{region}, seed {seed}', place='same region' if r == region else 'other region', times=round(t, 2), seed=s, **coverage(calibration, p))
                 for (r, t, s), p in places.items() if (r, t, s) != (region, 1, seed)]
    shipped = net[1].get('calibration') or {}
    if shipped.get('area'): rows += [dict(calibrated_on='shipped', place=r, times=round(t, 2), seed=s, **coverage(shipped, p)) for (r, t, s), p in places.items()]
    return pd.DataFrame(rows)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--model', default=str(BASE_WEIGHTS), help='stage-2 model (default: the shipped one)')
    p.add_argument('--seeds', type=int, default=2, help='places of each kind')
    p.add_argument('--out', default='shift.csv', help='table of all rows')
    args = p.parse_args()
    table = study(args.model, args.seeds)
    table.to_csv(args.out, index=False)
    kind = table.calibrated_on.str.replace(', seed.*', '', regex=True)
    print(table.groupby([kind, 'place', 'times']).mean(numeric_only=True).drop(columns='seed').round(3).to_string())

if __name__ == '__main__': main()
