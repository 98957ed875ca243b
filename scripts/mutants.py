"""Plant known bugs, one at a time, into a copy of the package and see that the tests find each of them.

    python scripts/mutants.py [words]

With words, only the bugs whose description contains one of them are planted. The working tree is never touched: every
bug gets a temporary copy of its own. The exit code is 1 if a bug survives, if its place in the code cannot be found
any more (then the list here needs care), or if the tests fail without any bug.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "onnxslim1x1"
WORKERS = 2
LIMIT_S = 180  # a bug that makes the tests hang counts as found

CONTRACT = "strategies/test_contract.py"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutant:
    """One planted bug: in `file` of the package, `old` becomes `new`; the `tests` must fail."""

    why: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = (
    # the families
    Mutant(why="the strides of the axes are swapped", file="strategies/base.py",
           old="stride=only(spec.stride, 1)", new="stride=only(spec.stride, 1)[::-1]", tests=(CONTRACT,)),
    Mutant(why="the first factor gets a bias", file="strategies/chains.py",
           old="bias if wanted.bias else None", new="np.resize(bias, wanted.out_channels)", tests=(CONTRACT,)),
    Mutant(why="the bias of the layer is lost", file="strategies/problem.py",
           old="np.zeros(spec.out_channels) if bias is None else np.asarray(bias, dtype=np.float64)",
           new="np.zeros(spec.out_channels)", tests=(CONTRACT,)),
    Mutant(why="the axes of the factors are not put back", file="strategies/unfolding.py",
           old="back = np.argsort(self._order)", new="back = self._order",
           tests=(CONTRACT,)),
    Mutant(why="the mean is not put into the bias", file="strategies/problem.py",
           old="self.bias + self.scale * (", new="self.bias + 0 * (", tests=(CONTRACT,)),
    Mutant(why="the mean is taken off the bias", file="strategies/problem.py",
           old="self.bias + self.scale * (", new="self.bias - self.scale * (", tests=(CONTRACT,)),
    Mutant(why="the bias of a draft stays scaled", file="strategies/problem.py",
           old="self.bias + self.scale * (", new="self.bias + (", tests=(CONTRACT,)),
    Mutant(why="the weights of a draft stay scaled", file="strategies/chains.py",
           old="kernels[-1] * problem.scale", new="kernels[-1] * 1.0", tests=(CONTRACT,)),
    Mutant(why="the loss of a draft stays scaled", file="strategies/problem.py",
           old="return lost / 2 * self._unit", new="return lost / 2", tests=(CONTRACT,)),
    Mutant(why="a draft claims to be exact", file="strategies/problem.py",
           old="return max(found, self._least)", new="return found", tests=(CONTRACT,)),
    Mutant(why="the channels are not whitened", file="strategies/unfolding.py",
           old="gram(self.rows if self.lower is None else self.lower.T @ self.rows)", new="gram(self.rows)",
           tests=("strategies/test_unfolding.py", "strategies/test_families.py")),
    Mutant(why="the refit solves with the wrong triangle", file="strategies/folds.py",
           old='trans="T" if transposed else "N"', new='trans="N"', tests=(CONTRACT,)),
    Mutant(why="the covariance behind a factor is in the wrong order", file="strategies/folds.py",
           old="by_direction.transpose(1, 0, 3, 2)", new="by_direction", tests=(CONTRACT,)),
    Mutant(why="the reported error is that of the next rank", file="strategies/chains.py",
           old="rank = min(ranks[-1], kept.capacity)", new="rank = min(ranks[-1] + 1, kept.capacity)",
           tests=("strategies/test_reduce.py",)),
    Mutant(why="a layer gets the work on another of its geometry", file="strategies/chains.py",
           old="np.array_equal(known.weight, weight) and ", new="", tests=("strategies/test_chains.py",)),
    Mutant(why="the weighting is not taken off the factors", file="strategies/closing.py",
           old="return self._stage.unweighted(vectors)", new="return vectors",
           tests=("strategies/test_families.py",)),
    Mutant(why="the error of a weighted chain is the weighted one", file="strategies/closing.py",
           old="return cumulated(self.energies * lengths if self._tall else lengths)",
           new="return cumulated(self.energies)", tests=(CONTRACT,)),
    Mutant(why="patches run over channels first", file="strategies/base.py",
           old="np.moveaxis(np.asarray(weight, dtype=np.float64), 1, -1).reshape(out_channels, -1)",
           new="np.asarray(weight, dtype=np.float64).reshape(out_channels, -1)", tests=("runtime/test_patches.py",)),
    Mutant(why="ranks above the limit are taken", file="strategies/base.py",
           old="not 1 <= r <= m", new="not 1 <= r <= m + 1", tests=(CONTRACT,)),
    Mutant(why="a search forgets what the last one learned", file="search/solve.py",
           old="self._clock.remember(realised)", new="self._clock.remember(1.0)", tests=("search/test_solve.py",)),
    Mutant(why="what was learned holds for any number of threads", file="runtime/whole_model.py",
           old="environment(threads=options.threads,", new="environment(threads=0,",
           tests=("runtime/test_whole_model.py",)),
    # statistics
    Mutant(why="the ridge has the wrong sign", file="linalg/moments.py",
           old="np.diag_indices(len(ridged))] += ", new="np.diag_indices(len(ridged))] -= ",
           tests=("linalg/test_moments.py",)),
    Mutant(why="the covariance is not centred", file="linalg/moments.py",
           old=" - np.outer(offset[part], offset)", new="", tests=("linalg/test_moments.py",)),
    Mutant(why="the mean forgets the shift", file="linalg/moments.py",
           old="(self._shift + offset).astype", new="offset.astype", tests=("linalg/test_moments.py",)),
    Mutant(why="begin and end pads are swapped", file="runtime/patches.py",
           old="(pads[i], pads[axes + i])", new="(pads[axes + i], pads[i])", tests=("runtime/test_patches.py",)),
    Mutant(why="patches ignore the dilation", file="runtime/patches.py",
           old="taps[i] * spec.dilation[i]", new="taps[i]", tests=("runtime/test_patches.py",)),
    Mutant(why="positions are drawn with replacement", file="runtime/patches.py",
           old="rng.permutation(total)[:count]", new="rng.integers(0, total, count)",
           tests=("runtime/test_patches.py",)),
    Mutant(why="a layer gets the statistics of the layer before it", file="runtime/calibration.py",
           old="images = values[layer.input]", new="images = values[layers[0].input]",
           tests=("runtime/test_calibration.py",)),
    Mutant(why="rows that still wait are not counted", file="linalg/moments.py",
           old="        self._flush()\n        if self._shift is None:\n            raise",
           new="        if self._shift is None:\n            raise", tests=("linalg/test_moments.py",)),
    # fitting to what the rewritten model feeds
    Mutant(why="the refit shrinks toward zero", file="linalg/refit.py",
           old=" + added * start", new="", tests=("linalg/test_refit.py",)),
    Mutant(why="the target repeats the error of the shortcut", file="runtime/pairs.py",
           old="target += due - added", new="target += added - due", tests=("runtime/test_pairs.py",)),
    Mutant(why="images that pad a batch are handed out", file="runtime/replay.py",
           old="return values[:images] if images < self._fixed", new="return values[:images] if images < 0",
           tests=("runtime/test_replay.py",)),
    Mutant(why="two tracks share the list of their tensors", file="runtime/replay.py",
           old="dict(self._names), list(self._counts)", new="self._names, list(self._counts)",
           tests=("runtime/test_replay.py",)),
    # what a low rank must lose
    Mutant(why="the bound takes the wrong number of eigenvalues", file="linalg/bounds.py",
           old="math.log(middle / (size - rank))", new="math.log(middle / size)",
           tests=("linalg/test_bounds.py",)),
    Mutant(why="the shift stays in the bound", file="linalg/bounds.py",
           old="found - 2 * (size - rank) * rounding", new="found + 2 * (size - rank) * rounding",
           tests=("linalg/test_bounds.py",)),
    Mutant(why="the energy of some columns counts as that of all", file="linalg/bounds.py",
           old="_behind(product, rank) / whole", new="_behind(product, rank) / float(product.trace())",
           tests=("linalg/test_bounds.py",)),
    Mutant(why="a bound that is not good enough rules a layer out", file="search/workbench.py",
           old="if least < enough:", new="if least < 0:", tests=("search/test_workbench.py",)),
    Mutant(why="layers with data are ruled out by their weights", file="search/workbench.py",
           old="or layer.output in self._moments or self.is_weighted(layer)", new="",
           tests=("search/test_workbench.py",)),
    # choosing what to do
    Mutant(why="refits that raise the loss are kept", file="search/reconstruction.py",
           old="if not loss < before:", new="if not loss < 3 * before:", tests=("search/test_reconstruction.py",)),
    Mutant(why="a refit that does much harm is kept", file="search/reconstruction.py",
           old="_TOLERATED * self._least", new="2 * self._least", tests=("search/test_reconstruction.py",)),
    Mutant(why="drafts are written where no refit is kept", file="search/reconstruction.py",
           old="[self._planned[name] for name in names])", new="[self._planned[name] for name in names], draft=True)",
           tests=("search/test_reconstruction.py",)),
    Mutant(why="layers with few samples are fitted, too", file="search/reconstruction.py",
           old="return rows_per_column(layer.spec, images) >= _LEAST_ROWS", new="return True",
           tests=("search/test_reconstruction.py",)),
    Mutant(why="the harm is measured against the last loss", file="search/reconstruction.py",
           old="self._least = min(self._least, loss)", new="self._least = loss",
           tests=("search/test_reconstruction.py",)),
    Mutant(why="a shortcut that is still to change is corrected for", file="search/reconstruction.py",
           old="found if found and self._is_ready(found, pending) else None", new="found",
           tests=("search/test_reconstruction.py",)),
    Mutant(why="layers are fitted to the inputs of the original", file="search/reconstruction.py",
           old="tracks.advance(assembled(self._bench, self.factors), layer, shortcut)",
           new="tracks.advance(self._bench.model, layer, shortcut)", tests=("search/test_reconstruction.py",)),
    Mutant(why="the speed is corrected the wrong way", file="search/solve.py",
           old="max(needed / saved, 1 / _AT_ONCE)", new="max(saved / needed, 1 / _AT_ONCE)",
           tests=("search/test_solve.py",)),
    Mutant(why="a broken promise counts as kept", file="search/solve.py",
           old="found.drop <= limit", new="found.drop <= 1.2 * limit", tests=("search/test_solve.py",)),
    Mutant(why="the loss of explicit ranks is not counted", file="search/planner.py",
           old="left = loss - total_loss(self._fixed)", new="left = loss", tests=("search/test_planner.py",)),
    Mutant(why="the factors of an earlier weighting stay", file="search/workbench.py",
           old="            self.forget_weighting(layer)\n", new="            self._weightings.pop(layer.output)\n",
           tests=("search/test_workbench.py",)),
    Mutant(why="sensitivities with and without a weighting share a key", file="search/sensitivity.py",
           old='"layer": layer.output, "weighted": bench.is_weighted(layer)', new='"layer": layer.output',
           tests=("search/test_sensitivity.py",)),
    Mutant(why="a drop has no margin", file="runtime/loss.py",
           old="lost.mean() + lost.std(ddof=1) / np.sqrt(rows)", new="lost.mean()", tests=("runtime/test_loss.py",)),
    Mutant(why="boxes and scores are pooled", file="runtime/parts.py",
           old="spreads[here] * _APART < spreads[before]", new="False", tests=("runtime/test_parts.py",)),
    Mutant(why="constant fields are a kind of their own", file="runtime/parts.py",
           old=" and spreads[here] > least", new="", tests=("runtime/test_parts.py",)),
    Mutant(why="the gradients forget how many parts there are", file="runtime/parts.py",
           old="np.sqrt(len(self.variances) * variance", new="np.sqrt(variance", tests=("runtime/test_parts.py",)),
    Mutant(why="the promise is that of all parts together", file="runtime/loss.py",
           old="return max(_losses(expected, found, parts))",
           new="return float(np.mean(_losses(expected, found, parts)))",
           tests=("runtime/test_loss.py",)),
    Mutant(why="what is written comes from a draft", file="search/workbench.py",
           old="return self.decomposition(found, family).truncate(ranks)",
           new="return self.decomposition(found, family, draft=True).truncate(ranks)",
           tests=("search/test_workbench.py",)),
    # costs
    Mutant(why="MACs forget the groups", file="spec.py",
           old="self.positions * self.in_channels // self.groups", new="self.positions * self.in_channels",
           tests=("test_spec.py",)),
    Mutant(why="a transposed convolution counts its output", file="spec.py",
           old="self.in_size if self.transposed else self.out_size", new="self.out_size", tests=("test_spec.py",)),
    Mutant(why="SAME_LOWER pads like SAME_UPPER", file="spec.py",
           old='begins.append(small if self.auto_pad == "SAME_UPPER" else large)\n'
               '            ends.append(large if self.auto_pad == "SAME_UPPER" else small)',
           new="begins.append(small)\n            ends.append(large)", tests=("test_spec.py",)),
    Mutant(why="ranks beyond the break-even are tried", file="search/candidates.py",
           old="range(block, limit + 1, block)", new="range(block, limit + block, block)",
           tests=("search/test_candidates.py",)),
    Mutant(why="factors get more channels than they can fill", file="search/candidates.py",
           old="all(factor.out_channels <= factor.patch for factor in chain[:-1])", new="True",
           tests=("search/test_candidates.py",)),
    # the graph
    Mutant(why="leftover references stand before the true one", file="graph/wire.py",
           old="(TENSOR_RAW_DATA, 13, 14)", new="(TENSOR_RAW_DATA, 14)", tests=("graph/test_wire.py",)),
    Mutant(why="weights that were read still count as external", file="graph/model.py",
           old='copy.ClearField("data_location")', new="pass", tests=("graph/test_model.py",)),
    Mutant(why="a field may end after the file", file="graph/wire.py",
           old="number == 0 or position > stop", new="number == 0", tests=("graph/test_wire.py",)),
    Mutant(why="external weights are looked for in the current folder", file="graph/stored.py",
           old="(home.parent if home else Path())", new="Path()", tests=("graph/test_model.py",)),
    Mutant(why="links out of the folder are followed", file="graph/stored.py",
           old="real = path.resolve()", new="real = path.absolute()", tests=("graph/test_stored.py",)),
    Mutant(why="absolute paths are read", file="graph/stored.py",
           old="if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor:", new="if False:",
           tests=("graph/test_stored.py",)),
    Mutant(why="a file may be shorter than a tensor claims", file="graph/stored.py",
           old="if offset + length > size:", new="if length > size:", tests=("graph/test_stored.py",)),
    Mutant(why="the stored length need not fit the shape", file="graph/stored.py",
           old="if claimed is not None and length != claimed:", new="if False:", tests=("graph/test_stored.py",)),
    Mutant(why="a part of a file is copied from its beginning", file="graph/stored.py",
           old="            file.seek(self.offset)\n            left = self.length",
           new="            left = self.length", tests=("graph/test_stored.py", "graph/test_pieces.py")),
    Mutant(why="gaps between weights are not counted", file="graph/pieces.py",
           old="end += gap + length", new="end += length", tests=("graph/test_pieces.py",)),
    Mutant(why="what stands behind the weights is lost", file="graph/pieces.py",
           old="    graph.append(high)\n", new="", tests=("graph/test_pieces.py",)),
    Mutant(why="the old model stays while its data changes", file="graph/save.py",
           old="if len(drafts) < 2 or not path.exists():", new="if True:", tests=("graph/test_save.py",)),
    Mutant(why="a replacement of a replacement is lost", file="graph/edit.py",
           old="waiting += reversed(self._spliced[id(node)])", new="settled += self._spliced[id(node)]",
           tests=("graph/test_edit.py",)),
    Mutant(why="the order inside of sub-graphs is not checked", file="graph/model.py",
           old="_require_order(body, known, where)", new="_ = body",
           tests=("graph/test_model.py",)),
    Mutant(why="the output of the last factor gets a new name", file="graph/rewrite.py",
           old="written = target if last and not adds_bias else gs.Variable", new="written = gs.Variable",
           tests=("graph/test_rewrite.py",)),
    Mutant(why="the weight of a MatMul is not turned", file="graph/rewrite.py",
           old="weight if takes_bias else weight.T", new="weight", tests=("graph/test_rewrite.py",)),
    Mutant(why="automatic padding is lost", file="graph/rewrite.py",
           old='named | {"auto_pad": spec.auto_pad}', new="named", tests=("graph/test_rewrite.py",)),
    Mutant(why="half precision becomes float32", file="graph/rewrite.py",
           old="factor.weight.astype(dtype)", new="factor.weight.astype(np.float32)", tests=("graph/test_rewrite.py",)),
    Mutant(why="names are not made unique", file="graph/edit.py",
           old="while name in self._names:", new="while False:", tests=("graph/test_edit.py", "graph/test_rewrite.py")),
    Mutant(why="weights that a sub-graph reads are dropped", file="graph/scopes.py",
           old="names |= reads(inner)", new="pass", tests=("graph/test_edit.py",)),
    Mutant(why="the epsilon of the normalization is forgotten", file="graph/fold.py",
           old='variance + norm.attrs.get("epsilon", _EPSILON)', new="variance", tests=("graph/test_fold.py",)),
    Mutant(why="a convolution whose output is asked for is folded", file="graph/fold.py",
           old=" and tensor.name not in outputs", new="", tests=("graph/test_fold.py",)),
    Mutant(why="Gemm reads its weight transposed", file="graph/operators.py",
           old='weight if attributes.get("transB", 0) else weight[::-1]',
           new='weight[::-1] if attributes.get("transB", 0) else weight', tests=("graph/test_layers.py",)),
    Mutant(why="shared weights are rewritten", file="graph/operators.py",
           old="scope.uses[weight] > 1", new="scope.uses[weight] > 2", tests=("graph/test_layers.py",)),
    Mutant(why="tensors that the rest of the model needs are dropped", file="graph/segment.py",
           old="kept=frozenset(set(at_hand) & needed)", new="kept=frozenset(set(at_hand) & set(wanted))",
           tests=("graph/test_segment.py",)),
    Mutant(why="tensors inside of sub-graphs are looked for outside", file="graph/segment.py",
           old="(reads(node) & outer) - ready", new="reads(node) - ready", tests=("graph/test_segment.py",)),
    Mutant(why="weights of Constant nodes keep the name of their tensor", file="graph/segment.py",
           old="weight.name = name", new="pass", tests=("graph/test_segment.py",)),
    Mutant(why="outputs of the model are dropped on the way", file="graph/segment.py",
           old="| asked | set(wanted)", new="| set(wanted)", tests=("graph/test_segment.py",)),
    Mutant(why="a layer that the model puts out has a shortcut", file="graph/segment.py",
           old=" or layer.output in {o.name for o in model.proto.graph.output}", new="",
           tests=("graph/test_segment.py",)),
    Mutant(why="the model moves before its weights", file="graph/save.py",
           old="drafts = sorted(folder.iterdir(), key=lambda f: f.name == path.name)",
           new="drafts = sorted(folder.iterdir(), key=lambda f: f.name != path.name)",
           tests=("graph/test_save.py",)),
    Mutant(why="a file is written in place", file="graph/save.py",
           old="_write_pieces(folder / path.name,", new="_write_pieces(path,", tests=("graph/test_save.py",)),
    # measured truth
    Mutant(why="the roof is the higher one of the two limits", file="runtime/roofline.py",
           old="min(self.peak, self.bandwidth * intensity)", new="max(self.peak, self.bandwidth * intensity)",
           tests=("runtime/test_roofline.py",)),
    Mutant(why="what is bound by memory is said to be bound by compute", file="runtime/roofline.py",
           old="if intensity >= self.ridge", new="if intensity <= self.ridge", tests=("runtime/test_roofline.py",)),
    Mutant(why="what an operator writes is not counted as moved", file="runtime/roofline.py",
           old="(reads + 1)", new="reads", tests=("runtime/test_roofline.py",)),
    Mutant(why="copies to a device count for its bandwidth", file="runtime/roofline.py",
           old=" if kernel.op not in COPIES", new="", tests=("runtime/test_roofline.py",)),
    Mutant(why="the bandwidth of another number of threads is taken", file="runtime/microbench.py",
           old="environment(threads=threads, provider=provider)", new="environment(threads=0, provider=provider)",
           tests=("runtime/test_roofline.py",)),
    Mutant(why="weights are not moved", file="graph/traffic.py",
           old="layer.spec.params * weight", new="0", tests=("graph/test_traffic.py",)),
    Mutant(why="a tensor without a type is float32", file="graph/traffic.py",
           old="sizes.get(layer.input, weight)", new="sizes.get(layer.input, _FLOAT32)",
           tests=("graph/test_traffic.py",)),
    Mutant(why="the provider of a kernel is not read", file="runtime/kernels.py",
           old='args.get("provider", "")', new='""', tests=("runtime/test_kernels.py",)),
    Mutant(why="the provider of a lost kernel is guessed", file="runtime/profile.py",
           old="(lost if len(lost) == 1 else ())", new="lost", tests=("runtime/test_profile.py",)),
    Mutant(why="a node that was absorbed has no provider", file="search/analysis.py",
           old="time.providers if into is None else times[into].providers", new="time.providers",
           tests=("search/test_measuring.py",)),
    # redundancy
    Mutant(why="the patterns of a kernel are those of one channel", file="strategies/redundancy.py",
           old="Blocks((*kernel, problem.channels), 1, axes=tuple(range(len(kernel)))",
           new="Blocks((*kernel, problem.channels), 1, axes=(len(kernel),)", tests=("strategies/test_redundancy.py",)),
    Mutant(why="the groups of a transposed layer are read as others", file="strategies/redundancy.py",
           old="kernel.reshape(groups, *inside, -1).transpose(0, 2, 1, 3)",
           new="kernel.reshape(groups, *inside[::-1], -1)",
           tests=("strategies/test_redundancy.py",)),
    Mutant(why="the curve on images is that of the weights", file="search/workbench.py",
           old="moments if data else None", new="None", tests=("search/test_curves.py",)),
    Mutant(why="one direction too few is counted", file="spec.py",
           old="len(self.kept) - 1) + 1", new="len(self.kept) - 1)", tests=("strategies/test_redundancy.py",)),
    Mutant(why="kept curves of other images are taken", file="search/measuring.py",
           old='{"data": data.digest, "seed": options.seed}', new="{}", tests=("search/test_measuring.py",)),
    Mutant(why="a sparkline starts before its first step", file="report/spectra.py",
           old="math.ceil(curve.size * k / width)", new="math.floor(curve.size * k / width)",
           tests=("report/test_spectra.py",)),
    # reports
    Mutant(why="a chain loses its first layer", file="search/comparison.py",
           old="leads[side][common[side]:0:-1]", new="leads[side][max(common[side] - 1, 0):0:-1]",
           tests=("search/test_comparison.py",)),
    Mutant(why="numbers as names mislead", file="search/comparison.py",
           old='"name", _name, _same_geometry)', new='"name", _name, _same_outputs)',
           tests=("search/test_comparison.py",)),
    Mutant(why="unknown figures count as nothing", file="search/comparison.py",
           old="if found and len(known) == len(found) else None", new="if found else None",
           tests=("search/test_comparison.py",)),
    Mutant(why="what is alike at the beginning is forgotten", file="search/comparison.py",
           old="[(k, k) for k in range(start)] + [", new="[", tests=("search/test_comparison.py",)),
    Mutant(why="names break the tables of Markdown", file="report/markdown.py",
           old="<>|~&]", new="<>~&]", tests=("report/test_export.py",)),
    Mutant(why="CSV holds rounded figures", file="report/export.py",
           old='"" if cell.value is None else cell.value', new='"" if cell.value is None else cell.text',
           tests=("report/test_export.py",)),
    Mutant(why="a gain is claimed of the whole latency", file="report/facts.py",
           old='value=f"{measured.kernel_s / after:.2f}x"', new='value=f"{measured.end_to_end.median_s / after:.2f}x"',
           tests=("report/test_export.py",)),
    Mutant(why="some layers bound the model", file="report/facts.py",
           old=" or len(record.layers) < record.totals.layers or", new=" or", tests=("report/test_export.py",)),
    Mutant(why="the data of a page may end its element", file="report/template.py",
           old='.replace("<", "\\\\u003c")', new="", tests=("report/test_page.py",)),
    Mutant(why="names are HTML", file="report/template.py",
           old="autoescape=True", new="autoescape=False", tests=("report/test_page.py",)),
    Mutant(why="a broken promise looks like success", file="report/validation_facts.py",
           old="if found is not None and not found.passed:", new="if found is None:",
           tests=("report/test_validation_page.py",)),
    Mutant(why="a drop is called a gain", file="report/words.py",
           old='is_worse = (value < 0) == (figure.better == "higher")',
           new='is_worse = (value > 0) == (figure.better == "higher")', tests=("report/test_words.py",)),
    Mutant(why="the interval of a drop keeps its sign", file="report/words.py",
           old="first, last = sorted((sign * low, sign * high))\n    written = scale(figure)",
           new="first, last = low, high\n    written = scale(figure)", tests=("report/test_words.py",)),
    Mutant(why="identical outputs pass for broken ones", file="report/words.py",
           old="return IDENTICAL if output.max_abs == 0 else NOT_FINITE", new="return NOT_FINITE",
           tests=("report/test_words.py",)),
    Mutant(why="pictures are fetched", file="report/validation_page.py",
           old='sample.picture.startswith("data:image/")', new="True", tests=("report/test_validation_page.py",)),
    Mutant(why="a validation loses a field in its record", file="report/validation_records.py",
           old="    worst: tuple[WorstRecord, ...]\n    task: str\n", new="    worst: tuple[WorstRecord, ...]\n",
           tests=("report/test_validation_documents.py",)),
    Mutant(why="only the first half of many rounds is kept", file="runtime/benchmark.py",
           old="np.linspace(0, len(seconds) - 1, min(len(seconds), _SHOWN_ROUNDS))",
           new="np.arange(min(len(seconds), _SHOWN_ROUNDS))",
           tests=("runtime/test_benchmark.py::test_the_times_of_single_runs_are_kept_for_plots",)),
    Mutant(why="two reports go into one file", file="cli/reports.py",
           old="if path.absolute() == same.absolute():", new="if path is same:", tests=("cli/test_reports.py",)),
    Mutant(why="what is unknown is sorted as zero", file="report/web/page.js",
           old="if (a === null || b === null) return (a === null) - (b === null) || i - j;", new="",
           tests=("report/test_page_browser.py::test_the_table_sorts",)),
    Mutant(why="the strip shows layers in the order of the table", file="report/plots.py",
           old="place = {row: position for position, row in enumerate(order)}",
           new="place = {row: row for row in order}",
           tests=("report/test_page_browser.py::test_the_order_of_the_table_does_not_change_what_a_click_selects",)),
    Mutant(why="curves show energies instead of errors", file="report/page.py",
           old="return math.sqrt(max(0.0, 1.0 - kept))", new="return max(0.0, 1.0 - kept)",
           tests=("report/test_page_browser.py::test_the_proposed_rank_is_marked_on_its_curve",)),
    # the architecture
    Mutant(why="a lower layer imports from a higher one", file="linalg/spectra.py",
           old="    total = float(values.sum())\n",
           new="    from onnxslim1x1.spec import Spectrum\n\n    total = float(values.sum())\n",
           tests=("test_architecture.py",)),
    # any model
    Mutant(why="what a body reads is not counted as a use", file="graph/layers.py",
           old="for name in (*node.input, *(reads(node) - set(node.input))))", new="for name in node.input)",
           tests=("graph/test_layers.py",)),
    Mutant(why="the weight of a quantised convolution is looked for elsewhere", file="graph/operators.py",
           old="Operator(read=_read_conv, weight=3, bias=8", new="Operator(read=_read_conv, weight=1, bias=8",
           tests=("graph/test_layers.py",)),
    Mutant(why="dequantised weights are taken for computed ones", file="graph/operators.py",
           old='scope.derived.get(weight) == "DequantizeLinear"', new='scope.derived.get(weight) == "Nothing"',
           tests=("graph/test_layers.py",)),
    Mutant(why="bfloat16 is not factorised", file="graph/operators.py", old="onnx.TensorProto.BFLOAT16, ", new="",
           tests=("graph/test_layers.py", "integration/test_types.py")),
    Mutant(why="layers in functions lose their names", file="graph/functions.py",
           old="if name and counts[name] == 1 and name not in taken:", new="if not name:",
           tests=("graph/test_layers.py",)),
    Mutant(why="a layer in a body gets the time of the whole node", file="search/analysis.py",
           old="times is None or layer.in_body else", new="times is None else", tests=("search/test_analysis.py",)),
    Mutant(why="the groups do not count for the channels of an input", file="graph/hints.py",
           old='size=dims[1] * attributes.get("group", 1))', new="size=dims[1])", tests=("graph/test_shapes.py",)),
    Mutant(why="a declared size of zero is replaced", file="graph/shapes.py",
           old="dim.dim_value >= 0:  # 0", new="dim.dim_value > 0:  # 0",
           tests=("graph/test_shapes.py",)),
    Mutant(why="integers in external files say nothing about shapes", file="graph/shapes.py",
           old="    _read_small(proto.graph, model)\n", new="", tests=("graph/test_shapes.py",)),
    Mutant(why="the default epsilon is not that of float32", file="graph/fold.py",
           old="_EPSILON = float(np.float32(1e-5))", new="_EPSILON = 1e-5", tests=("integration/test_types.py",)),
    Mutant(why="an invalid model is taken for one that onnxruntime lacks something for", file="runtime/inputs.py",
           old="return not invalid or not all(", new="return True or not all(", tests=("runtime/test_inputs.py",)),
    Mutant(why="a type that onnxruntime does not run is not run in float32", file="runtime/inputs.py",
           old="input_shapes(as_float32(proto), single, where", new="input_shapes(proto, feeds, where",
           tests=("runtime/test_inputs.py",)),
    Mutant(why="rounds are taken for independent", file="runtime/ratio.py",
           old="if len(starts) >= FEWEST_GROUPS:", new="if False:", tests=("runtime/test_ratio.py",)),
    Mutant(why="few groups are trusted like many", file="runtime/ratio.py",
           old="factor, hidden = _student(len(starts)),", new="factor, hidden = 1.0,",
           tests=("runtime/test_ratio.py",)),
    Mutant(why="the noise floor is not asked", file="runtime/benchmark.py",
           old="if self.speedup_low > self.noise_floor:", new="if self.speedup_low > 1:",
           tests=("runtime/test_benchmark.py",)),
    Mutant(why="sessions are never made anew", file="runtime/rounds.py",
           old="if renew else 1", new="if False else 1", tests=("runtime/test_rounds.py",)),
    Mutant(why="a cold start is measured", file="runtime/rounds.py",
           old="return bool(last >= _STEADY * before)", new="return True", tests=("runtime/test_rounds.py",)),
    Mutant(why="the best speed-up is promised", file="runtime/verdict.py",
           old="speedup = min((one.speedup", new="speedup = max((one.speedup", tests=("runtime/test_validate.py",)),
    Mutant(why="denormal numbers are zero everywhere", file="runtime/footprint.py",
           old="pool.submit(_first_session).result()", new="_first_session()",
           tests=("runtime/test_footprint.py",)),
    # accuracy with intervals
    Mutant(why="intervals of paired differences forget that images are the same", file="runtime/intervals.py",
           old="return (max(determinant - n / 2, 0.0) if determinant > 0 else determinant) / math.sqrt(product)",
           new="return 0.0", tests=("runtime/test_intervals.py",)),
    Mutant(why="the ends of the interval of a drop are swapped", file="runtime/intervals.py",
           old="low = delta - _span(p2 - l2, u1 - p1, phi)", new="low = delta - _span(u2 - p2, p1 - l1, phi)",
           tests=("runtime/test_intervals.py",)),
    Mutant(why="columns are resampled apart", file="runtime/intervals.py",
           old="draws.append(statistic(*(column[picks] for column in columns), axis=-1))",
           new="draws.append(statistic(*(column[rng.permutation(picks)] for column in columns), axis=-1))",
           tests=("runtime/test_intervals.py",)),
    Mutant(why="a gate with confidence asks for the figure", file="runtime/verdict.py",
           old="lows[one.name] = None if one.low is None or known is None else min(one.low, known)",
           new="lows[one.name] = one.value", tests=("runtime/test_accuracy.py",)),
    Mutant(why="a gate on a figure takes the best output", file="runtime/verdict.py",
           old="(min if self.least else max)(known)", new="(max if self.least else min)(known)",
           tests=("runtime/test_verdict.py",)),
    Mutant(why="a gate on a figure takes the better end", file="runtime/verdict.py",
           old="one.low if self.least else one.high", new="one.high if self.least else one.low",
           tests=("runtime/test_verdict.py",)),
    Mutant(why="an error enters where it is only passed on", file="runtime/layer_errors.py",
           old="return error / before if before > rounding else math.inf", new="return math.inf",
           tests=("runtime/test_layer_errors.py",)),
    Mutant(why="a tensor stands for two", file="runtime/correspondence.py",
           old="pairs[name] = free.pop(best[1])", new="pairs[name] = free[best[1]]",
           tests=("runtime/test_layer_errors.py",)),
    Mutant(why="bisecting never looks at complements", file="search/bisect.py",
           old="others = [tuple(x for x in kept if x not in chunk) for chunk in chunks] if parts > 2 else []",
           new="others = []", tests=("search/test_bisect.py",)),
    Mutant(why="the background is a box", file="runtime/boxes.py",
           old="        if self._background is not None:\n            usable[:, self._background] = -np.inf\n", new="",
           tests=("runtime/test_metrics.py",)),
    Mutant(why="texts in outputs are all the same", file="runtime/validate.py",
           old="zlib.crc32(str(text).encode())", new="0", tests=("runtime/test_validate.py",)),
    Mutant(why="a crash keeps the code of its signal", file="cli/entry.py",
           old='    sys.stderr.write(f"error: {reason}\\n")\n    return _EXIT_UNUSABLE',
           new='    sys.stderr.write(f"error: {reason}\\n")\n    return -code', tests=("cli/test_entry.py",)),
    Mutant(why="the command outlives the program", file="cli/entry.py",
           old="    os.kill(os.getpid(), signal.SIGKILL)\n\n\ndef _wait", new="    return\n\n\ndef _wait",
           tests=("cli/test_entry.py",)),
    Mutant(why="whoever was quick is given up, too", file="runtime/watch.py", old="        done.set()",
           new="        pass", tests=("runtime/test_watch.py",)),
    Mutant(why="names that are no text pass", file="graph/sound.py", old="yield from _of_graph(body)", new="pass",
           tests=("graph/test_sound.py",)),
    # pipelines
    Mutant(why="the table of a command loses against the top of the file", file="cli/settings.py",
           old="overlaid(own, top) | own", new="own | top", tests=("cli/test_configured.py",)),
    Mutant(why="paths of a configuration file are relative to the current folder", file="cli/settings.py",
           old="return folder / name", new="return Path(name)", tests=("cli/test_configured.py",)),
    Mutant(why="the farthest configuration file wins", file="cli/discovery.py",
           old="(start, *start.parents)", new="reversed((start, *start.parents))", tests=("cli/test_configured.py",)),
    Mutant(why="the quick answer ignores the configuration file", file="cli/quick.py",
           old="return find(Path.cwd()) is not None", new="return False", tests=("cli/test_configured.py",)),
    Mutant(why="labels stay although other images are given", file="cli/rivals.py",
           old='"data": ("labels", "no_validate")', new='"data": ("no_validate",)', tests=("cli/test_configured.py",)),
    Mutant(why="the noise floor counts against the later export", file="report/baseline.py",
           old="/ noise * measured.speedup", new="* noise * measured.speedup", tests=("report/test_baseline.py",)),
    Mutant(why="a larger figure is worse whatever it is", file="report/baseline.py",
           old='if then.better == "higher":', new='if then.better == "lower":', tests=("report/test_baseline.py",)),
    Mutant(why="a baseline of other images is taken", file="report/baseline.py",
           old="if was != new:", new='if was != new and name != "images":', tests=("report/test_baseline.py",)),
    Mutant(why="a validation that fails is recorded", file="cli/baseline.py",
           old="if not report.passed:", new="if False:", tests=("cli/test_ci.py",)),
    Mutant(why="a percent sign in an annotation is not escaped", file="report/annotations.py",
           old='text.replace("%", "%25").replace', new="text.replace", tests=("report/test_annotations.py",)),
    Mutant(why="a failed gate is no failure in JUnit XML", file="report/junit.py",
           old="if not gate.passed:", new="if gate.value is None:", tests=("report/test_junit.py",)),
    Mutant(why="init overwrites a file", file="cli/init.py",
           old="if os.path.lexists(output) and not force:", new="if False:", tests=("cli/test_init.py",)),
)


def copied(folder: Path) -> Path:
    """A copy of the package, the tests, their models and their configuration."""
    for name in (PACKAGE, "tests", "sample_models"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def passes(folder: Path, tests: Sequence[str], limit_s: float = LIMIT_S) -> bool:
    """Whether the tests of a copy pass there.

    Raises:
        RuntimeError: pytest could not run them.
    """
    # no .pyc files: two versions of a file may have the same size and the same second
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *(f"tests/{t}" for t in tests)]
    try:
        result = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True,
                                timeout=limit_s)
    except subprocess.TimeoutExpired:
        return False
    if result.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {result.returncode}:\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
    return result.returncode == 0


def verdict(mutant: Mutant) -> tuple[str, float]:
    """What became of one bug, and the seconds that it took: killed, survived, not found or broken."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        file = copied(Path(name)) / PACKAGE / mutant.file
        source = file.read_text(encoding="utf-8")
        if source.count(mutant.old) != 1:
            return f"found {source.count(mutant.old)} times", 0.0
        file.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")
        try:
            outcome = "survived" if passes(Path(name), mutant.tests) else "killed"
        except RuntimeError as error:
            outcome = f"broken: {error}"
    return outcome, time.monotonic() - start


def sound(mutants: Sequence[Mutant]) -> bool:
    """Whether all tests that are used pass without a bug, in a copy."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        return passes(copied(Path(name)), sorted({test for mutant in mutants for test in mutant.tests}), 10 * LIMIT_S)


def main(words: Sequence[str]) -> int:
    mutants = [m for m in MUTANTS if not words or any(word in m.why for word in words)]
    if not sound(mutants):
        print("the tests fail without any planted bug: run make test first")
        return 1
    left = 0
    with ThreadPoolExecutor(WORKERS) as pool:
        for mutant, (outcome, seconds) in zip(mutants, pool.map(verdict, mutants), strict=True):
            left += outcome != "killed"
            print(f"{outcome:<10} {seconds:5.1f} s  {mutant.file:<24} {mutant.why}", flush=True)
    print(f"{len(mutants) - left} of {len(mutants)} planted bugs were found")
    return 1 if left or not mutants else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
