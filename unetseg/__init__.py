"""unetseg: pairs on disk → tensors → U-Net → masks on disk.

The files are the stages of that sentence, in order. Imports run one way only: a file may import
what is written above it, never below.

    text.py            plurals, lists, times, printable paths and commands
    errors.py          what a user can do wrong: code, paths, fix and exit code
    progress.py        what long work tells whoever watches
    config.py          every setting there is, once: typed, with unit, default and source
    resources.py       cores and memory, within the limits of a container
    group.py           the processes that train one network together
    runtime.py         device, precision, threads, signals
    timing.py          work measured in turns
    storage.py         files that are whole or not there; run folders
    locks.py           a folder held by one process alone
    data/              files on disk → tensors
      files/             bytes ↔ arrays
        once.py            a value made at its first use in each process; the last of many
        windows.py         rectangles of images, cut out or found on the image as it is stored
        pages.py           pages of a stack, each an image of its own
        limits.py          what a file must be before it is read: no bomb; damage, answered
        stacks.py          which pages of a TIFF are the image that is asked for
        tiffs.py           one TIFF: its header, its pixels whole, and any window of them
        pngs.py            PNGs out, fast
        arrays.py          one .npy or .npz
        photos.py          one file of any format that Pillow knows, or of JPEG 2000
        bands.py           what becomes of bands and number types; which band is alpha
        georeference.py    where an image lies on the earth
        vrts.py            the sources of a VRT mosaic: images of this machine alone
        rasters.py         one VRT mosaic, ERDAS .img or ENVI file
        readers.py         which of these a file is given to, by its first bytes
        image.py           an image file, opened once: header, whole pixels, windows
        folders.py         the image files in folders, and the names of what is made from them
        nodata.py          pixels without data: told by a value, NaN, a mask or alpha; carried along
        geotiff.py         tiled TIFFs written from top to bottom, with their place on the earth
      masks/             what a mask value means
        class_map.py       classes, their codes, palette, ignored codes
        mask_forms.py      alpha, bands and palettes in masks, brought to numbers or colours
        mask_file.py       a mask file: an image file whose values are codes of classes
        class_list.py      classes.txt, .json or .yaml: names of classes and their codes
        mask_values.py     which values the masks of a folder hold
        stray_values.py    which of them are classes, and which soft edges, slips or noise
        listed_classes.py  a class list applied to them
        numbered_objects.py  which of them number objects, alone or within classes
        infer_classes.py   what they mean: the class map, and why in one sentence
        overlay.py         pictures of masks over images
      pairs/             which image has which mask
        naming.py          what the words in names say: split, role, why a file takes no part
        affixes.py         constant beginnings and ends of names around what a pair shares
        content.py         what samples of files show: masks, numbered objects, fields of view
        series.py          files by series, which share a role
        keys.py            the keys by which an image and its mask belong together
        mask_sets.py       which image each of several masks belongs to
        pair.py            one pair, and the pairs of a folder
        table.py           pairs listed in a CSV file
        lists.py           splits that text files list
        foreign.py         other programs' annotations, and formats that are not read
        questions.py       what nobody could know, with answers to paste
        choose.py          which series are images, which masks, and which take no part
        beside.py          masks beside images, where only images are wanted
        match.py           find the images of a folder and the mask of each
        splits.py          which pairs train, validate and test
        dataset_yaml.py    dataset.yaml: read, applied to pairs and settings, and written
      facts/             what a folder is like
        orientation.py     whether up is up in the images
        similarity.py      a hash of what an image looks like: near-copies have near hashes
        image_values.py    what the pixels of one image are like, in one reading
        fingerprint.py     what a folder is like: sizes, intensities, class statistics
        survey.py          a folder understood: pairs, splits, facts and classes in one
      crops/             pairs → tensors
        transforms.py      the transforms of each profile of augmentations
        augment.py         geometry moves image and mask together; colour moves the image only
        crop.py            squares around any centre of a pair
        reader.py          pairs of files → (image, class indexes)
        cache.py           decoded pairs kept between epochs: in memory, or in a file
        dataset.py         pair → (image C×H×W, mask H×W); crops and their order
        loading.py         batches of crops, made by processes that may die
      sample.py          draws the sample folder that the demo and the tests use
    checks/            a survey → what is wrong with the folder, and the fix for each finding
      finding.py         one thing that is wrong, with the files and the fix
      names.py           names that do not pair, or will not on other machines
      files.py           files that cannot be read, sizes that differ, NaN, no data, saturation
      values.py          mask values: stray ones, odd codings, polarity
      balance.py         classes over masks and splits: rare, empty, ignored, missing ones
      groups.py          groups that splits tear: patients, scenes, videos; told by names
      leakage.py         copies and near-copies, within a split and across splits
      alignment.py       masks that are shifted or turned against their image
      places.py          masks that lie elsewhere on the earth than their image
      fix.py             the fixed copy of a folder
      check.py           all of it in one look
    importers/         other programs' annotations → plain pairs
      shapes.py          polygons, ellipses, lines, run lengths → pixels
      brushes.py         brushes of Label Studio ↔ pixels
      annotations.py     what a reader yields, and how it becomes classes and masks
      source_files.py    the files of an export: found by the names in it, and read
      archives.py        zip and tar, unpacked so that none can do harm
      coco.py            COCO instances: polygons and run lengths
      voc.py             Pascal VOC: palette masks, lists of splits, masks by labelmap.txt
      labelme.py         labelme: one JSON for each image
      labelstudio.py     Label Studio: its JSON export and its PNG export
      cvat.py            CVAT: its segmentation masks and its XML of shapes
      cityscapes.py      Cityscapes, and data sets laid out like it
      instances.py       one mask file for each object, united
      class_masks.py     one mask file for each class, united
      yolo.py            YOLO: texts of polygons
      rle.py             Kaggle: run lengths in a CSV
      via.py             VGG Image Annotator: a JSON of regions
      supervisely.py     Supervisely: polygons with holes, bitmaps
      roboflow.py        Roboflow: numbered masks with a table of classes
      nnunet.py          nnU-Net: channels in several files, slices of volumes
      panoptic.py        COCO panoptic: PNGs of numbered segments
      pairs_folder.py    the folder of pairs that an import writes
      importing.py       the formats, and the import
    unet/              image tensor → logits
      shortcuts.py       inside a block: identity, zero-padded, learned, gated, deactivable …
      initialisation.py  the weights that a network starts with
      blocks.py          plain, residual and dense blocks
      skips.py           across the U: concat, add, none, learned, gated, attention, switch
      nested.py          the nodes of UNet++ between encoder and decoder
      encoder.py         image → features, shallow to deep
      weights.py         what an encoder starts with: a file, the cache or a download
      pretrained.py      a segmentation-models-pytorch encoder behind the same contract
      decoder.py         bottom + skips → full-resolution features
      model.py           UNet
      segmenter.py       normalisation + UNet: raw pixels in, logits out
      ensemble.py        several U-Nets as one: the mean of their logits
      checkpointing.py   blocks that compute their activations twice, to save memory
      build.py           the one function that builds it from its settings
    bundle.py          a trained U-Net on disk: model.safetensors + model.json, complete in itself
    prediction/        bundle + images → masks
      tiling.py          cut, overlap, blend (arrays only; knows no network)
      recording.py       a network's calls as a graph, its batch norms folded
      fusion.py          that graph in the fused operations of oneDNN
      openvino.py        a network in OpenVINO, where that is installed
      backends.py        what runs a network, and which is chosen: eager, fused, compiled …
      exported.py        a U-Net in a file of export/, run by what runs such files
      engine.py          a trained U-Net made fast on this machine
      values.py          whether an image holds values like those trained on
      stream.py          large images, predicted from top to bottom in bands
      objects.py         connected components, parted where they touch, numbered and measured
      postprocess.py     holes filled, components removed, where the bundle says so
      bands.py           finished bands of a large image, kept until its mask is written
      pipeline.py        the prediction loop: read ahead → group → network → hand on
      polygons.py        outlines of objects in map coordinates
      review.py          which images most need a look
      outputs.py         what is written for one image: mask, probabilities, overlay, objects
      in_memory.py       arrays, tensors, lists and Pillow images, read as files of them would be
      manifest.py        what lies in a folder of masks, and what it was made with and from
      alone.py           work that may end its process, done in one apart
      jobs.py            which images are predicted into which files, planned before any is written
      predictor.py       a trained U-Net that turns images into masks
      predict.py         folder → mask files
    evaluation/        bundle + pairs → scores
      confusion.py       int64 counts → IoU, Dice, precision, recall
      probabilities.py   histograms of probabilities → ROC-AUC, average precision, calibration
      outlines.py        how far apart the outlines of a class are; centre lines
      objects.py         connected components found, missed and made up
      shapes.py          both, of every class in every image
      anatomy.py         where the errors are: at outlines, in objects, classes and images
      gallery.py         the worst, median and best images as small pictures
      suspects.py        masks that a network which never saw them contradicts most surely
      truth.py           the class indexes of a pair, whole or row by row
      counting.py        a pair → its confusion, band by band; a split → its scores
      paired.py          two predictions of the same images: difference, interval, verdict
      precision.py       whether fast arithmetic gives the masks of float32
      postprocessing.py  whether that makes masks better
      calibration.py     the temperature of a network, and its best threshold
      evaluate.py        scores per class and per image, with confidence intervals
      compare.py         trained U-Nets on the same held-out pairs: which is better
    report/            a run folder's files → one self-contained page
      curves.py          finished or not, overfitted or not, what more time would give
      charts.py          charts as inline SVG
      facts.py           what a run folder tells of itself
      card.py            the model card of a bundle
      page.py            the page of a run, or of several side by side
    training/          pairs → bundle
      losses.py          (logits, target) → scalar
      optimizer.py       what moves the weights, and their running mean
      schedule.py        how far a training is, and how fast it learns there
      fine_tuning.py     what was learned before: a trained U-Net, a pretrained encoder
      plan.py            survey + budget → every "auto" resolved, each with its reason
      learner.py         one training step: from a batch to moved weights
      tuning.py          what is tried first: the batch that fits, the network, compiling
      workers.py         who loads the crops: the training, or processes beside it
      previews.py        what the network is fed and answers, in pictures; what its skips pass
      checkpoint.py      everything that a resume needs
      run_log.py         what a run tells while it learns: metrics.csv, log.jsonl, TensorBoard
      run.py             a run is a folder: opened fresh or resumed
      verdicts.py        what a finished bundle is to know of itself
      fit.py             the training loop, readable from top to bottom
      trainings.py       several in one folder: one budget, one shape, gone on with as begun
      folds.py           a training for each part of the images, joined to an ensemble
      learning_curve.py  what more labelled images would bring
      launch.py          several training processes, started on this machine
    skiplab/           a trained or fresh U-Net with its skips edited: what breaks, what flows
      look.py            a trained U-Net and its images go in, a table with pictures comes out
      cost.py            parameters, arithmetic and time of a network
      gradient_flow.py   the gradient of every layer, and the weights that a step cannot move
      gradients.py       how gradients fare on their way to the first layer
      ablate.py          each skip broken in turn: which carry, help, idle or hurt
      corruptions.py     images spoilt by noise, blur, low contrast and texture
      skip_trainings.py  each kind of skip with each seed: trained, scored, timed
      seeds.py           which kind is best, as far as the seeds tell
      compare.py         kinds of skips trained alike and held against each other
      loss_surface.py    the loss on given images: along directions, and how sharply it bends
      landscape.py       the surface of the loss around the trained weights
      gates.py           how far learned skips open, over images and over the training
      prune.py           switched-off skips taken out of a trained U-Net
    scaling/           the same work on many machines
      blocks.py          a stable split of images into shards, and these into blocks
      listing.py         the images of a shard, looked through or streamed
      shards.py          one of several predictions that together predict a folder
      object_storage.py  images and masks at addresses such as s3://bucket/prefix
      cluster.py         the same by the workers of a Ray cluster
    export/            a bundle as one file for others
      operators.py       a recorded network in the operators of ONNX
      onnx.py            raw pixels in, masks and probabilities out, as one ONNX file
      openvino.py        the same as OpenVINO's two files
      torchscript.py     the same as a TorchScript file
      bioimage.py        the ONNX file in a package of bioimage.io
      deepness.py        the ONNX file for tiles of QGIS
      int8.py            its convolutions in 8 bit, and what that costs
      export.py          that file, or another kind, held against the run
      pytorch_unet.py    a checkpoint of milesial/Pytorch-UNet, the other way
    serving/           a bundle behind HTTP, and the app in the browser
      metrics.py         what a server counts, for Prometheus
      api_page.py        /docs: what a server answers to, for people
      door.py            what every request must pass before it is answered
      server.py          an application of routers; how the server starts and ends
      network_queue.py   images that wait for the network; alike ones share a batch
      service.py         a trained U-Net for any number of requests, in bounded memory and time
      predictions.py     POST /predict: an image file in, its mask and more out
      inference.py       the Open Inference Protocol, version 2
      label_studio.py    Label Studio's backend: labels pre-drawn, corrections back as pairs
      model_server.py    all of it, for one model
      classes.py         the classes of masks begun in the app, and new ones after them
      folder.py          a folder in the app: images, masks, classes, and who may write
      drawing.py         masks as class indexes, written in the folder's own coding
      pictures.py        images and masks of any size for the eye, by tiles
      runs.py            what the app reads in run folders
      processes.py       training and predicting for the app, in processes of their own
      learning.py        which of them run, begun, followed and stopped
      studio.py          what is open in the app, who draws there, what its page is told
      images.py          the app's images and masks: shown, drawn on, dropped in, taken away
      app.py             the app's page, and what else it asks for
    bench.py           how fast this machine is with a U-Net, and where the time goes
    doctor.py          what this machine offers a U-Net, and what is wrong with it
    cli/               argv → settings → one call; one file per verb; the only place that prints

The same from Python, each loaded when it is first used:

    import unetseg

    unetseg.train("data/cells", budget="10m")              # → run folder; flags are keywords
    unetseg.evaluate("checkpoints/cells", "data/cells")    # → scores
    unetseg.predict("checkpoints/cells", ["new/"], "out")  # → mask files
    unetseg.load("checkpoints/cells").predict(array)       # → mask H×W; docs/python.md
    unetseg.score(model, array, mask)                      # → scores of one image
    unetseg.UNet                                           # the network, a torch module
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unetseg.evaluation.evaluate import evaluate
    from unetseg.evaluation.evaluate import score_image as score
    from unetseg.prediction.predict import predict_folder as predict
    from unetseg.prediction.predictor import load
    from unetseg.training.fit import train
    from unetseg.unet.model import UNet

__version__ = "0.1.0"
__all__ = ["UNet", "__version__", "evaluate", "load", "predict", "score", "train"]

# albumentations looks for updates on the network at import, unless told not to
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# A raster, and what lies beside it, may name addresses that GDAL would fetch.
os.environ.setdefault("CPL_VSIL_CURL_ALLOWED_FILENAME", "none")
os.environ.setdefault("GDAL_SKIP", "WCS,WMS,WMTS,HTTP,PLMOSAIC,EEDA,DAAS,STACIT,STACTA,GTI")

_HOMES = {
    "UNet": ("unetseg.unet.model", "UNet"),
    "evaluate": ("unetseg.evaluation.evaluate", "evaluate"),
    "load": ("unetseg.prediction.predictor", "load"),
    "predict": ("unetseg.prediction.predict", "predict_folder"),
    "score": ("unetseg.evaluation.evaluate", "score_image"),
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
