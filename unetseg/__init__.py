"""unetseg: pairs on disk → tensors → U-Net → masks on disk.

The files are the stages of that sentence, in order. Imports run one way only: a file may import
what is written above it, never below.

    errors.py          what a user can do wrong, each with its mend and its exit code
    progress.py        what long work tells whoever watches
    config.py          every setting there is, once: typed, with unit, default and source
    runtime.py         device, precision, threads, memory, seed
    storage.py         files that are whole or not there; run folders
    data/              files on disk → tensors
      images.py          pixels in and out: any bit depth, any band count
      masks.py           what a mask value means: classes, codings, palette, ignore
      class_list.py      classes.txt, .json or .yaml: names of classes and their codes
      mask_values.py     which values a folder of masks holds, and which of them are noise
      coding.py          from those values to the classes, concluded in one sentence
      overlay.py         pictures of masks over images
      folders.py         the image files in folders, and the names of what is made from them
      naming.py          what names say: role, split, and the key that image and mask share
      layouts.py         the readings of a folder: which files are images, which are masks
      pairs.py           find the images of a folder and the mask of each
      splits.py          which pairs train, validate and test
      fingerprint.py     what a folder is like: sizes, intensities, class statistics
      survey.py          a folder understood: pairs, splits, facts and classes in one
      orientation.py     whether up is up in the images
      augment.py         geometry moves image and mask together; colour moves the image only
      dataset.py         pair → (image C×H×W, mask H×W); crops, loaders
      sample.py          draws the sample folder that the demo and the tests use
    unet/              image tensor → logits
      shortcuts.py       inside a block: identity, zero-padded, learned, gated, deactivable …
      initialisation.py  the weights that a network starts with
      blocks.py          plain, residual and dense blocks
      skips.py           across the U: concat, add, none, learned, gated, attention, switch
      nested.py          the nodes of UNet++ between encoder and decoder
      encoder.py         image → features, shallow to deep
      pretrained.py      a segmentation-models-pytorch encoder behind the same contract
      decoder.py         bottom + skips → full-resolution features
      model.py           UNet
      build.py           the one function that builds it from its settings
    bundle.py          a trained U-Net on disk: model.safetensors + model.json, complete in itself
    prediction/        bundle + images → masks
      tiling.py          cut, overlap, blend (arrays only; knows no network)
      engine.py          a trained U-Net made fast on this machine
      predict.py         folder → mask files
    evaluation/        bundle + pairs → scores
      confusion.py       int64 counts → IoU, Dice, precision, recall
      evaluate.py        scores per class and per image, with confidence intervals
    training/          pairs → bundle
      losses.py          (logits, target) → scalar
      optimizer.py       what moves the weights, and their running mean
      schedule.py        how far a training is, and how fast it learns there
      signals.py         stopping politely: a signal sets a flag
      plan.py            survey + budget → every "auto" resolved, each with its reason
      previews.py        pictures of what the network is fed and what it answers
      checkpoint.py      everything that a resume needs
      run.py             a run is a folder: opened fresh or resumed
      fit.py             the loop, readable from top to bottom
    skiplab/           a trained or fresh U-Net with its skips edited: what breaks, what flows
      finding.py         a table, a picture and two sentences in plain words
      subject.py         what the lab looks at: a trained U-Net, and images with their truth
      cost.py            parameters, arithmetic and time of a network
      tower.py           stacks of blocks, and the residual networks of 2015 for CIFAR
      updates.py         what a learning rate makes of a gradient, and which weights cannot move
      gradient_flow.py   the gradient of every layer, at the start and through training
      gradient_figures.py  pictures of gradients
      gradient_words.py  gradients in plain words
      gradients.py       how gradients fare on their way to the first layer
      verdicts.py        which skips carry, help, idle or hurt, and how sure that is
      ablate_figures.py  pictures of what every level and class loses
      ablate.py          each skip broken in turn, and what that does to the masks
      corruptions.py     images spoilt by noise, blur, low contrast and texture
      arms.py            which kind of skip is best, and what the seeds can tell apart
      compare.py         kinds of skips trained alike and held against each other
      images_loss.py     the loss of a trained U-Net on given images
      sharpness.py       the largest eigenvalue of the Hessian
      surface.py         the loss along two directions of the weights
      landscape.py       the surface of the loss around the trained weights
      openings.py        how much of each level learned skips let through, over images and time
      gates.py           what learned skips settled on
      prune.py           switched-off skips taken out of a trained U-Net
    cli/               argv → settings → one call; one file per verb; the only place that prints

The same from Python, each loaded when it is first used:

    import unetseg

    unetseg.train("data/cells")                            # → run folder
    unetseg.evaluate("checkpoints/cells", "data/cells")    # → scores
    unetseg.predict("checkpoints/cells", ["new/"], "out")  # → mask files
    unetseg.load("checkpoints/cells").predict(array)       # → mask H×W
    unetseg.UNet                                           # the network, a torch module
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unetseg.evaluation.evaluate import evaluate
    from unetseg.prediction.predict import load
    from unetseg.prediction.predict import predict_folder as predict
    from unetseg.training.fit import train
    from unetseg.unet.model import UNet

__version__ = "0.1.0"
__all__ = ["UNet", "__version__", "evaluate", "load", "predict", "train"]

# albumentations looks for updates on the network at import, unless told not to
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

_HOMES = {
    "UNet": ("unetseg.unet.model", "UNet"),
    "evaluate": ("unetseg.evaluation.evaluate", "evaluate"),
    "load": ("unetseg.prediction.predict", "load"),
    "predict": ("unetseg.prediction.predict", "predict_folder"),
    "train": ("unetseg.training.fit", "train"),
}


def __getattr__(name: str) -> object:
    """Import the public name from its home on first use, so that torch is loaded late (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'unetseg' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value: object = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The names in the module, public ones not yet imported included."""
    return sorted({*globals(), *__all__})
