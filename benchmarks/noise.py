"""What careless outlines cost a model that learns from them.

`python -m benchmarks.noise --folder FOLDER` trains on twenty labelled chips whose outlines a careful, a hasty and a careless person drew (`NOISE` of notebook 48),
as a turn does, and scores the model against right labels. It can be stopped and continued: each training leaves a file. `--table` prints what is there."""
import argparse, json, os, time
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.suggest import EVENTS, TESTED, auprc, both_ends, event_chips, interval, rows_of, some_rows

LABELLED = 20 # chips, half of them with landslides
TEACH = 15    # of them; the others check, with the same mistakes

def levels():
    "What is drawn how: nothing wrong, three people, and each mistake of the third alone"
    from landslide_nb.labelling.agreement import NOISE, Noise
    worst = NOISE['careless']
    alone = dict(shifted=Noise(worst.shift_m, 0, 0, 0), edges=Noise(0, worst.edge_m, 0, 0),
                 missed=Noise(0, 0, worst.missed, 0), invented=Noise(0, 0, 0, worst.invented))
    return {'right': Noise(0, 0, 0, 0), **NOISE, **alone}

def truth_image(chips):
    "The masks of all chips as one image"
    import rioxarray # gives an image its CRS
    import xarray as xr
    table = chips.table
    side, height, width = chips.size, table.row.max() + chips.size, table.col.max() + chips.size
    image = np.full((height, width), 255, 'uint8')
    for k, (row, col) in enumerate(table[['row', 'col']].to_numpy()): image[row:row + side, col:col + side] = chips.masks[k]
    one = table.iloc[0]
    west, south, east, north = one.geometry.bounds
    pixel = (east - west)/side
    axes = dict(y=north + pixel*(one.row - np.arange(height) - .5), x=west + pixel*(np.arange(width) - one.col + .5))
    return xr.DataArray(image, axes, ('y', 'x')).rio.write_crs(table.crs)

@cache
def event(name, folder):
    "Chips of an event, and its truth"
    chips = event_chips(name, folder)
    return chips, truth_image(chips)

def right_labels(chips, truth, rows):
    "What somebody who knows the truth says of some chips"
    from landslide_nb.labelling.suggest import answer_by_truth
    from landslide_nb.labelling.labels import chip_name
    some = chips.table.iloc[rows].rename(columns=dict(col='column')).reset_index(drop=True)
    names = [chip_name(*place) for place in zip(some.row, some.column)]
    return answer_by_truth(some.assign(chip=names)[['chip', 'row', 'column', 'geometry']], truth)

def as_drawn(chips, truth, rows, noise, seed):
    "The chips with the labels of one person, and how these agree with the truth"
    from landslide_nb.data.chips import ChipSet
    from landslide_nb.labelling.agreement import kappa_of, noisy_labels, two_by_two
    from landslide_nb.labelling.ground import label_image
    image = label_image(noisy_labels(right_labels(chips, truth, rows), noise, seed), truth).values
    drawn = ChipSet(chips.folder)
    drawn.masks, drawn.table = np.array(chips.masks), chips.table.copy()
    for k in rows:
        row, col = chips.table.row.iloc[k], chips.table.col.iloc[k]
        drawn.masks[k] = image[row:row + chips.size, col:col + chips.size]
    drawn.table['landslide_px'] = (drawn.masks == 1).sum((1, 2))
    return drawn, kappa_of(two_by_two(drawn.masks[rows], np.asarray(chips.masks)[rows]))

def trial(name, level, seed, args):
    "One training as a turn, and its score against right labels"
    from landslide_nb.data.split import draw_budget
    from landslide_nb.labelling.turn import TurnPlan, fitted, label_learner, nothing_said
    start = time.time()
    chips, truth = event(name, args.folder)
    tested = some_rows(chips, 'test', TESTED)
    facts = dict(event=name, level=level, seed=seed, model=Path(args.model).stem)
    if level == 'no labels': return dict(facts, auprc=auprc(args.model, chips, tested))
    rows = draw_budget(chips, LABELLED, seed)
    drawn, kappa = as_drawn(chips, truth, rows, levels()[level], seed)
    learn = label_learner(drawn, dict(train=rows[:TEACH], valid=rows[TEACH:]), TurnPlan(args.model, seed=seed))
    ends = both_ends(learn)
    fitted(learn, args.epochs, nothing_said)
    facts.update(kappa=kappa, share=learn.keep_best.share, auprc=auprc(learn, chips, tested))
    learn.model.load_state_dict(ends[1])
    return dict(facts, unchecked=auprc(learn, chips, tested), seconds=round(time.time() - start, 1))

def table(folder, model, score):
    "Means over seeds and both events, and what each level costs against right labels, seed by seed"
    rows = [json.loads(p.read_text()) for p in (folder/'noise').glob(f'*-{Path(model).stem}.json')]
    found = pd.DataFrame(rows)
    wide = found[found.level != 'no labels'].pivot_table(score, ['level', 'seed'], 'event').dropna()
    lines = {'no labels': found[found.level == 'no labels'].set_index('event').auprc[list(EVENTS)].round(3).to_dict()}
    for level in [o for o in levels() if o in wide.index]:
        some = wide.loc[level]
        less = (some - wide.loc['right']).mean(axis=1).dropna()
        of = found[found.level == level]
        lines[level] = {**some.mean()[list(EVENTS)].round(3), 'both, less right outlines': interval(less) if level != 'right' else '',
                        'kappa': f'{of.kappa.mean():.2f}', 'went nowhere': f'{(of.share == 0).mean():.0%}', 'seeds': len(less)}
    return rows_of(pd.DataFrame(lines).T.fillna('').rename_axis('outlines'))

def main():
    p = argparse.ArgumentParser('python -m benchmarks.noise', description=__doc__)
    p.add_argument('--folder', type=Path, required=True)
    p.add_argument('--model', default='base', help='weights to go on from: base, or a file')
    p.add_argument('--seeds', type=int, default=5)
    p.add_argument('--epochs', type=int, default=8, help='of 128 chips each')
    p.add_argument('--levels', type=lambda s: s.split(','), default=list(levels()))
    p.add_argument('--table', action='store_true')
    args = p.parse_args()
    if args.table:
        print('the weights that the checking chips choose:\n' + table(args.folder, args.model, 'auprc'))
        print('\nthe weights after training, unchecked:\n' + table(args.folder, args.model, 'unchecked'))
        return
    (args.folder/'noise').mkdir(parents=True, exist_ok=True)
    jobs = [(e, 'no labels', 0) for e in EVENTS]
    for some in (args.levels[:4], args.levels[4:]):
        jobs += [(e, level, seed) for seed in range(args.seeds) for e in EVENTS for level in some]
    for name, level, seed in jobs:
        path = args.folder/'noise'/f'{name}-{level}-{seed}-{args.epochs}-{Path(args.model).stem}.json'
        if path.exists(): continue
        row = trial(name, level, seed, args)
        half = path.with_suffix('.half')
        half.write_text(json.dumps(row))
        os.replace(half, path)
        print(row, flush=True)

if __name__ == '__main__': main()
