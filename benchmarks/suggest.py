"""Which chips teach most? Rules of `suggest_chips` against random chips, by real trainings that go on from the shipped weights.

`python -m benchmarks.suggest --folder FOLDER` can be stopped and continued: each training leaves a file. `--table` prints what is there.
`--events regions` takes five random regions in place of the embedded events, one a seed."""
import argparse, json, os, time
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as student

EVENTS = 'demo_a', 'demo_b'
FIRST = 400_000 # seed of the first random region, far from those that the weights were trained and calibrated on
ENOUGH = dict(train=12, valid=4, test=8) # chips with landslides that a region has in each part
BUDGETS = 2, 5, 10, 20
HELD = 16  # validation chips, which choose how far to go from the shipped weights
TESTED = 80 # test chips

def event_chips(event, folder):
    "The chips of an event or of a random region, split in space, as of `landslide-nb experiment`"
    from landslide_nb.data.chips import make_chips
    from landslide_nb.study.protocol import quick_spec, region_chips
    from landslide_nb.weights.base import random_pair
    where, spec = folder/'chips'/event, quick_spec()
    missing = event.isdigit() and not where.exists()
    if missing: make_chips(random_pair(int(event), 2048), where, size=spec.size, step=spec.size)
    return region_chips(event, spec, folder)

def is_enough(chips):
    "Whether each part has enough chips with landslides"
    return all(len(chips.rows(part, positive=True)) >= least for part, least in ENOUGH.items())

def region_names(folder, n):
    "The first random regions with enough landslides in each part"
    from landslide_nb.weights.base import random_region
    found, seed = [], FIRST
    while len(found) < n:
        name = str(seed)
        if random_region(seed).contrast and is_enough(event_chips(name, folder)): found.append(name)
        seed += 1
    return found

def some_rows(chips, part, n):
    "Chips of a part, spread over it, half of them with landslides as far as there are"
    from landslide_nb.data.split import draw_budget
    most = 2*len(chips.rows(part, positive=True))
    return np.sort(draw_budget(chips, min(n, most), 0, part))

def features_of(net, inputs):
    "Means and spreads of what the trunk of a network sees in a chip"
    import torch
    from landslide_nb.learn.networks import stack_moments
    features = net.trunk(stack_moments(inputs))[0].float().flatten(1)
    return torch.cat([features.mean(1), features.std(1)]).numpy()

def chip_views(net, eight, calibration):
    "What a network says of a chip, given its eight views, the first as it lies"
    import torch
    from landslide_nb.learn.calibration import calibrate
    embedding = features_of(net, eight[0])
    views = [net(one)[0].float() for one in eight]
    sums = np.array([float(torch.sigmoid(view).nansum()) for view in views])
    p = calibrate(views[0].numpy(), calibration)
    return dict(expected=np.nansum(p), doubt=np.nansum(p*(1 - p)), views=np.std(np.log(sums + 1)),
                most=np.nanmax(p), embedding=embedding)

def base_views(event, chips, folder, model='base'):
    "What the weights say of every chip: probabilities, and how far the eight views disagree"
    path = folder/f'{event}.{Path(model).stem}.npz'
    if path.exists(): return dict(np.load(path))
    import torch
    from landslide_nb.core import atomic
    from landslide_nb.learn.models import dihedral, load_model, normalize_pair
    net, meta = load_model(model)
    spec, found = meta['input'], []
    pixelwise = {k: v for k, v in meta['calibration'].items() if k != 'around'}
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
        for row in range(len(chips)):
            pair = torch.from_numpy(np.array(chips.chips[row])).float()
            eight = [normalize_pair(dihedral(pair, k)[None], spec['stats'], spec['change']) for k in range(8)]
            found.append(chip_views(net, eight, pixelwise))
    out = {name: np.stack([one[name] for one in found]) for name in found[0]}
    with atomic(path) as tmp: np.savez(open(tmp, 'wb'), **out)
    return out

def known(chips, seen, rows):
    "What is known of some chips before anybody looks, as `outlook` says it of the chips of a map"
    from landslide_nb.labelling.suggest import Outlook, standardised
    images = np.stack([chips.chips[row] for row in rows]).astype('float32') # (n, moment, band, y, x)
    bands = np.concatenate([images[:, 0], images[:, 1] - images[:, 0]], 1)
    looks = [np.nanmean(bands, (2, 3)), np.nanstd(bands, (2, 3)), np.log(seen['expected'][rows] + 1)[:, None]]
    places = chips.table[['row', 'col']].to_numpy()[rows]/chips.size
    return Outlook(seen['expected'][rows], seen['doubt'][rows], places, standardised(np.concatenate(looks, 1)))

POOL = .8 # share of the training chips that a seed may choose from, as if each seed were another scene

def choose(rule, chips, seen, n, seed):
    "Chips of the training part by a rule; only `random` knows the truth: half of its chips hold a landslide"
    from landslide_nb.data.split import draw_budget
    from landslide_nb.labelling.suggest import CHIP_RULES, largest
    if rule == 'random': return draw_budget(chips, n, seed)
    rng = np.random.default_rng(seed)
    mixed = rng.permutation(chips.rows('train'))
    pool = np.sort(mixed[:round(POOL*len(mixed))])
    if rule == 'views': return pool[np.array(largest(seen['views'][pool], n))]
    of_map = CHIP_RULES['random' if rule == 'anywhere' else rule]
    return pool[np.array(of_map(known(chips, seen, pool), n, (), rng))]

def both_ends(learn):
    "All weights before a training, and those after it once it is over"
    from fastai.callback.core import Callback
    from landslide_nb.learn.training import weights_of
    ends = [weights_of(learn.model)]
    class Ends(Callback):
        "Keeps the weights of the end"
        order = learn.keep_best.order - 1 # before `KeepBlend` goes back
        def after_fit(self): # also after each of its validations
            "Keep the weights, the first time"
            if len(ends) == 1: ends.append(weights_of(self.model))
    learn.add_cb(Ends())
    return ends

def train(chips, rows, seed, args):
    "Go on from the weights with some chips; the learner, and all weights before and after"
    from landslide_nb.data.chips import ChipStack
    from landslide_nb.learn.data import BatchPlan, NormalizePair, TruthBlock, chip_dls
    from landslide_nb.learn.finetune import continued_learner
    from landslide_nb.learn.models import read_header
    stack, spec = ChipStack(chips), read_header(args.model)['input']
    plan = BatchPlan(8, args.chips, None, True, seed)
    norm = NormalizePair(spec['stats'], spec['change'])
    parts = dict(train=rows, valid=some_rows(chips, 'valid', HELD))
    dls = chip_dls(stack, parts, TruthBlock(stack), norm, plan)
    learn = continued_learner(dls, args.model, lr=args.lr, seed=seed)
    ends = both_ends(learn)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1)
    return learn, ends

def as_a_turn(learn, ends, budget):
    "The weights that `label_learner` keeps where no chip is left to check with"
    from landslide_nb.labelling.turn import BEFORE_WORTH
    from landslide_nb.learn.training import blend_weights
    learn.model.load_state_dict(blend_weights(*ends, budget/(budget + BEFORE_WORTH)))
    return learn

def auprc(learn, chips, rows):
    "Average precision over all pixels of some chips, in bfloat16 as in training"
    import torch
    from landslide_nb.learn.finetune import model_and_meta, truth_of
    from landslide_nb.learn.metrics import average_precision
    from landslide_nb.learn.models import normalize_pair
    net, meta = model_and_meta(learn)
    spec, found = meta['input'], []
    for some in np.array_split(rows, len(rows)//8):
        pairs = normalize_pair(torch.from_numpy(chips.chips[some]).float(), spec['stats'], spec['change'])
        with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
            found.append(net(pairs).float())
    return average_precision(torch.cat(found).numpy(), truth_of(chips, rows).numpy(), scores=True)

def trial(event, rule, budget, seed, chips, seen, args):
    "One training and its scores: with the weights that held-out chips chose (auprc), and with those of a turn without any (turn)"
    start = time.time()
    tested = some_rows(chips, 'test', TESTED)
    facts = dict(event=event, rule=rule, budget=budget, seed=seed, model=Path(args.model).stem)
    if not budget: # the weights as they are
        score = auprc(args.model, chips, tested)
        return dict(facts, auprc=score, turn=score)
    rows = choose(rule, chips, seen, budget, seed)
    learn, ends = train(chips, rows, seed, args)
    facts['share'] = learn.keep_best.share
    facts['positive'] = int(chips.is_positive[rows].sum())
    facts['auprc'] = auprc(learn, chips, tested)
    facts['turn'] = auprc(as_a_turn(learn, ends, budget), chips, tested)
    return dict(facts, seconds=round(time.time() - start, 1))

def plan(args, events):
    "Trials in order of what they tell: the two rules of the goal first"
    jobs = [(event, 'none', 0, 0) for event in events]
    pairs = [(seed, event) for seed in range(args.seeds) for event in events]
    if args.events == ['regions']: pairs = list(enumerate(events)) # one a seed
    for rules in (args.rules[:2], args.rules[2:]):
        jobs += [(event, rule, budget, seed) for seed, event in pairs for budget in args.budgets for rule in rules]
    return jobs

def found_in(folder, model):
    "A row a training with some weights; regions have one name, and their number is the seed"
    rows = [json.loads(p.read_text()) for p in sorted((folder/'trials').glob(f'*-{Path(model).stem}.json'))]
    found = pd.DataFrame(rows)
    return found.assign(place=found.event.where(~found.event.str.isdigit(), 'regions'))

def interval(values, decimals=3):
    "Mean and 95 % interval over seeds (t)"
    v = np.asarray(values, float)
    n, mean = len(v), v.mean()
    step = np.nan # one seed says nothing
    if n > 1: step = student.ppf(.975, n - 1)*v.std(ddof=1)/n**.5
    low, high = mean - step, mean + step
    return f'{mean:+.{decimals}f} [{low:+.{decimals}f}, {high:+.{decimals}f}]'

def per_seed(found, places, score):
    "Mean over places: rows (rule, seed), columns budgets"
    some = found[found.place.isin(places) & (found.budget > 0)]
    wide = some.pivot_table(score, ['rule', 'seed'], ['budget', 'place'])
    return wide.T.groupby('budget').agg(lambda o: o.mean(skipna=False)).T # nan where a place is missing

def chips_needed(curve, goal):
    "How many chips reach a score, on straight lines over the logarithm of the number; nan: none of them does"
    budgets, values = np.log(curve.index.to_numpy(float)), curve.to_numpy()
    if values[0] >= goal: return float(curve.index[0])
    for k in range(1, len(values)):
        if values[k] >= goal:
            part = (goal - values[k - 1])/(values[k] - values[k - 1])
            return float(np.exp(budgets[k - 1] + part*(budgets[k] - budgets[k - 1])))
    return np.nan

def rows_of(table):
    "Lines of a table as markdown"
    table = table.reset_index()
    lines = [table.columns, ['---']*table.shape[1], *table.values]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines)

def print_means(found, places, score):
    "Mean AUPRC by place, rule and budget"
    by_rule = ['place', 'rule']
    some = found[found.place.isin(places)]
    means = some.pivot_table(score, by_rule, 'budget').round(3)
    counts = some.pivot_table('seed', by_rule, 'budget', 'count')
    most = counts.iloc[:, 1:].max().max()
    print(f'mean AUPRC ({score}), {most:.0f} seeds at most\n{rows_of(means.fillna(""))}\n')

def less_random(of_rule, random):
    "What a rule gains on random chips, with its interval: at the same budgets, and with 5 chips on 20 random ones"
    less = (of_rule - random).dropna(how='all')
    gained = {budget: less[budget].dropna() for budget in less}
    line = {f'{budget} less {budget} random': interval(each) for budget, each in gained.items() if len(each)}
    if {5, 20} <= set(of_rule.columns): line['5 less 20 random'] = interval((of_rule[5] - random[20]).dropna())
    return line

def needed_each_seed(of_rule, random):
    "How many chips of a rule reach 20 random ones, seed by seed"
    seeds = of_rule.dropna().index.intersection(random.dropna().index)
    return [round(chips_needed(of_rule.loc[seed], random.loc[seed, 20]), 1) for seed in seeds]

def tables(found, places, score):
    "What is there: mean AUPRC by place, rule and budget; each rule less random at the same budget and at 20; chips needed"
    print_means(found, places, score)
    each = per_seed(found, places, score)
    rules = each.index.get_level_values(0).unique()
    if 'random' not in rules: return
    random = each.loc['random']
    others = rules.drop('random')
    lines = {rule: less_random(each.loc[rule], random) for rule in others}
    print(rows_of(pd.DataFrame(lines).T.rename_axis('rule')), '\n')
    for rule in others:
        print(rule, 'chips that reach 20 random ones, each seed:', needed_each_seed(each.loc[rule], random))

@cache
def prepared(event, folder, model):
    "Chips of an event, and what the weights say of them"
    chips = event_chips(event, folder)
    return chips, base_views(event, chips, folder, model)

RULES = 'random', 'turns', 'spread', 'area', 'cover', 'doubt', 'anywhere', 'views'

def words(text):
    "Words with commas between them"
    return text.split(',')

def numbers(text):
    "Whole numbers with commas between them"
    return [int(word) for word in words(text)]

def read_args():
    "What the command line asks for"
    p = argparse.ArgumentParser('python -m benchmarks.suggest', description=__doc__)
    p.add_argument('--folder', type=Path, required=True)
    p.add_argument('--model', default='base', help='weights to go on from: base, or a file')
    p.add_argument('--events', type=words, default=list(EVENTS), help='embedded events, or regions')
    p.add_argument('--seeds', type=int, default=5)
    p.add_argument('--budgets', type=numbers, default=list(BUDGETS))
    p.add_argument('--rules', type=words, default=list(RULES))
    p.add_argument('--chips', type=int, default=256, help='chips a training passes')
    p.add_argument('--lr', type=float, default=1e-3)
    p.add_argument('--table', action='store_true')
    return p.parse_args()

def do_trial(job, args):
    "Do one trial of the plan, unless its file is there"
    name = '-'.join(map(str, (*job, args.chips, args.lr, Path(args.model).stem)))
    path = args.folder/'trials'/f'{name}.json'
    if path.exists(): return
    row = trial(*job, *prepared(job[0], args.folder, args.model), args)
    half = path.with_suffix('.half')
    half.write_text(json.dumps(row))
    os.replace(half, path)
    print(row, flush=True)

def main():
    "Do all trials of the plan, or print what is there"
    args = read_args()
    if args.table:
        found = found_in(args.folder, args.model)
        for score in ('auprc', 'turn'): tables(found, args.events, score)
        return
    (args.folder/'trials').mkdir(parents=True, exist_ok=True)
    events = region_names(args.folder, args.seeds) if args.events == ['regions'] else args.events
    for job in plan(args, events): do_trial(job, args)

if __name__ == '__main__': main()
