"""Measurements that take minutes; each is a command, `python -m benchmarks.NAME`.

    predict_folder   a folder of images → a folder of masks, against the plain script
    train_steps      training steps, loading included, against the plain script; --curves: what is
                     learned
    forward_pass     the network alone, against a product of matrices
    startup          what a command costs before it works
    growth           memory and pace over thousands of images
    scaling          with cores, with loading processes, with image size
    memory           the largest memory of prediction and training
    profiles         where the time goes, part by part
    large_raster     an image bigger than memory
    objects          objects counted, against known ones
    export           exported files beside the run that they are of
    serve            a server under load, and its memory; service: a model in one process
    accuracy         score against time, of recipes and of peers (peers, nnunet)
    suspects         how many of ten wrong masks are found
    fields_of_view   fields of view for fundus photographs that came without
    gpu_check        all that a GPU must show, right and fast, in ten minutes

The plain scripts are in baseline.py. All contenders are processes of their own (contenders.py,
workers.py) and are measured in turns (rounds.py); the last line of each is one JSON object, and
--save writes benchmarks/results/NAME.md. UNETSEG_REAL_DATA names the folder with real images.
"""
