"""Ways of pretraining side by side: how stage 1 pools its evidence, how stage 2 uses it, and pretraining without any label.

    python -m benchmarks.pretraining --folder FOLDER [--seeds 3] [--budget 10]

Stage 1 learns on demo_a, stage 2 on a few chips of demo_b: the region on which choices are made; `landslide-nb experiment` reports on demo_a.
FOLDER keeps chips and finished trainings; the same command continues. About 25 minutes on one core.
"""
import argparse, json, math
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from scipy import stats as st
from torch import nn

from landslide_nb.core import atomic, set_seed
from landslide_nb.learn.data import finetune_dls, pretrain_dls
from landslide_nb.study.experiment import LOOKS
from landslide_nb.learn.finetune import continued_learner, finetune_learner, frozen_learner, predict_chips, truth_of
from landslide_nb.learn.metrics import average_precision
from landslide_nb.learn.networks import EvidenceNet, PRIOR_LOGIT, UNet, pool_evidence
from landslide_nb.learn.pretrain import pretrain_learner
from landslide_nb.study.protocol import pretrain_chips, quick_spec, region_chips

# --- how the evidence of the pixels becomes the decision of a chip

def mean_logit(e): return e.flatten(1).mean(1) - PRIOR_LOGIT
def top_percent(e): return e.flatten(1).topk(max(1, e[0].numel()//100)).values.mean(1)
def noisy_or(e): # a chip holds a landslide unless no pixel does
    s = nn.functional.softplus(e.float()).flatten(1).sum(1).clamp(1e-6, 80)
    return s + torch.log(-torch.expm1(-s))

class Pooled(EvidenceNet):
    "The default stage-1 network with another pooling"
    def __init__(self, pool, **size):
        super().__init__(**size)
        self.pool = pool
    def forward(self, x): return self.pool(self.evidence(x))

class Attention(EvidenceNet):
    "Pixels weighted by learned attention (Ilse et al. 2018)"
    def __init__(self, **size):
        super().__init__(**size)
        self.gate = nn.Conv2d(self.n_features, 1, 1)
    def forward(self, x):
        f = self.features(x)
        return (self.head(f)*self.gate(f).flatten(2).softmax(2).view(len(f), 1, *f.shape[2:])).flatten(1).sum(1)

class Forecast(nn.Module):
    "Without labels: predict the pass after from the pass before; the features are those of the forecast and what it missed"
    def __init__(self, width=16, levels=4):
        super().__init__()
        self.trunk, self.head, self.n_features = UNet(2, width, levels), nn.Conv2d(width, 2, 1), width + 2
        self.config = dict(arch='unet', stage=1, channels=2, moments=3)
    def features(self, x): # (B, M, C, H, W) normalised -> (B, n_features, H, W)
        f = self.trunk(x[:, 0].as_subclass(torch.Tensor).contiguous(memory_format=torch.channels_last))
        return torch.cat([f, x[:, 1] - self.head(f)], 1)
    def forward(self, x): return self.features(x)[:, -2:]

POOLS = {'log of the mean odds (default)': partial(Pooled, pool_evidence), 'mean of the logits': partial(Pooled, mean_logit), 'highest percent': partial(Pooled, top_percent), 'noisy or': partial(Pooled, noisy_or), 'attention': Attention}

def stage1(make, chips, spec, seed=0):
    "A stage-1 network trained on chip labels of one or more regions"
    dls = pretrain_dls(chips, looks=LOOKS, epoch_chips=min(spec.pretrain_epoch_chips, sum(len(c.rows('train')) for c in chips)), seed=seed)
    learn = pretrain_learner(dls, seed=seed)
    set_seed(seed); net = make(channels=2, moments=3); net.config = learn.model.config
    learn.model = net
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(spec.pretrain_epochs)
    return learn.model.eval()

def forecaster(chips, spec, seed=0):
    "A network that forecasts the pass after, trained on the same chips without their labels"
    dls = pretrain_dls(chips, looks=LOOKS, epoch_chips=min(spec.pretrain_epoch_chips, sum(len(c.rows('train')) for c in chips)), seed=seed)
    set_seed(seed); net = Forecast()
    steps = spec.pretrain_epochs*len(dls.train)
    opt = torch.optim.AdamW(net.parameters(), 1e-2); plan = torch.optim.lr_scheduler.OneCycleLR(opt, 1e-2, steps)
    for _ in range(spec.pretrain_epochs):
        for x, _ in dls.train:
            loss = nn.functional.smooth_l1_loss(net(x.as_subclass(torch.Tensor)), torch.zeros(()))
            opt.zero_grad(); loss.backward(); opt.step(); plan.step()
    return net.eval()

# --- how stage 2 uses it

def fit_plain(learn, epochs): learn.fit_one_cycle(epochs)
def fit_slow_trunk(learn, epochs): learn.fit_one_cycle(epochs, slice(learn.lr/10, learn.lr))
def fit_unfreezing(learn, epochs): # fastai's own: the last group first, then all
    learn.freeze(); learn.fit_one_cycle(epochs//3)
    learn.unfreeze(); learn.fit_one_cycle(epochs - epochs//3, slice(learn.lr/10, learn.lr))

def stage2(chips, start, how, fit, spec, budget, seed):
    "Test AUPRC of stage 2 on a few chips"
    dls = finetune_dls(chips, budget, seed=seed, bs=8, epoch_chips=spec.epoch_chips)
    if start is None: learn = finetune_learner(dls, seed=seed)
    elif how == 'frozen': learn = frozen_learner(dls, start, seed=seed)
    else: learn = continued_learner(dls, start, seed=seed)
    with learn.no_bar(), learn.no_logging(): fit(learn, spec.epochs)
    rows = chips.rows('test')
    return average_precision(predict_chips(learn, chips, rows), truth_of(chips, rows), scores=True)

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--folder', type=Path, required=True)
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--budget', type=int, default=10)
    p.add_argument('--scene', type=int, default=2688)
    args = p.parse_args()
    torch.set_num_threads(1)
    spec, folder = quick_spec('demo_b', scene=args.scene), args.folder
    target, source = (region_chips(r, spec, folder) for r in ('demo_b', 'demo_a'))
    small = lambda c, name: pretrain_chips(c, folder/'chips'/f'{name}_{spec.pretrain_size}', spec.pretrain_size)
    there, here = small(source, 'demo_a'), small(target, 'demo_b')
    known = {}
    def trained(name, make): # once, in memory
        if name not in known: known[name] = make()
        return known[name]
    ways = {'no pretraining': (None, 'frozen', fit_plain)}
    ways |= {f'frozen, {name}': ((name, lambda make=make: stage1(make, [there], spec)), 'frozen', fit_plain) for name, make in POOLS.items()}
    first = next(iter(POOLS)); default = (first, lambda: stage1(POOLS[first], [there], spec))
    ways |= {'frozen, both regions': (('both', lambda: stage1(POOLS[first], [there, here], spec)), 'frozen', fit_plain),
             'frozen, forecast of the pass after (no labels)': (('forecast', lambda: forecaster([there], spec)), 'frozen', fit_plain),
             'full': (default, 'full', fit_plain), 'full, trunk ten times slower': (default, 'full', fit_slow_trunk), 'full, unfrozen step by step': (default, 'full', fit_unfreezing)}
    rows = []
    for name, (start, how, fit) in ways.items():
        for seed in range(args.seeds):
            path = folder/'ways'/f'{args.budget}_{seed}_{name.replace(" ", "_")}.json'
            if not path.exists():
                value = stage2(target, None if start is None else trained(*start), how, fit, spec, args.budget, seed)
                with atomic(path) as tmp: tmp.write_text(json.dumps(dict(way=name, seed=seed, auprc=value)))
            rows.append(json.loads(path.read_text())); print(rows[-1], flush=True)
    t = pd.DataFrame(rows).pivot(index='way', columns='seed', values='auprc').loc[list(ways)]
    gain = t.sub(t.loc['no pretraining'])
    half = st.t.ppf(.975, args.seeds - 1)*gain.std(axis=1, ddof=1)/math.sqrt(args.seeds)
    print(f'\nAUPRC on {len(target.rows("test"))} test chips of demo_b, {args.budget} labelled chips, {args.seeds} seeds; difference paired, 95 % t interval over seeds\n\n| stage 1 | AUPRC | each seed | against no pretraining |\n|---|---:|---|---:|')
    for way in t.index: print(f'| {way} | {t.loc[way].mean():.3f} | {", ".join(f"{v:.3f}" for v in t.loc[way])} | ' + ('|' if way == 'no pretraining' else f'{gain.loc[way].mean():+.3f} [{gain.loc[way].mean() - half[way]:+.3f}, {gain.loc[way].mean() + half[way]:+.3f}] |'))

if __name__ == '__main__': main()
