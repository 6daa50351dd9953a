# unetseg on CUDA machines. Build and run:
#
#   docker build -t unetseg .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD":/work unetseg \
#       train data/cells
#
# /cache holds downloaded encoder weights: add `-v unetseg-cache:/cache` to keep them.
# With --read-only add `--tmpfs /tmp`.

ARG BASE_IMAGE=python:3.12-slim
FROM ${BASE_IMAGE}

# Everything a program may want to write at home goes to /cache, whoever runs the container.
ENV PATH=/opt/unetseg/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NO_ALBUMENTATIONS_UPDATE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    USER=unetseg \
    HOME=/cache \
    XDG_CACHE_HOME=/cache/xdg \
    XDG_CONFIG_HOME=/cache/config \
    TORCH_HOME=/cache/torch \
    HF_HOME=/cache/huggingface \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    TRITON_CACHE_DIR=/cache/triton

WORKDIR /build

# rasterio's wheel brings GDAL, but not this library.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libexpat1 \
    && rm -rf /var/lib/apt/lists/*

# The dependencies are gigabytes and change seldom: a layer of their own. The wheels of torch on
# Linux bring CUDA; the base needs none.
COPY pyproject.toml constraints.txt ./
RUN python3 -m venv /opt/unetseg \
    && python -m pip install --no-cache-dir --constraint constraints.txt uv \
    && uv pip install --no-cache --python /opt/unetseg/bin/python --compile-bytecode \
        --constraints constraints.txt --requirements pyproject.toml

# The package itself changes often and is small.
COPY README.md LICENSE ./
COPY unetseg ./unetseg
RUN uv pip install --no-cache --python /opt/unetseg/bin/python --compile-bytecode --no-deps \
        --build-constraints constraints.txt . \
    && rm -rf /build/*

RUN useradd --uid 1000 --no-create-home --home-dir /cache unetseg \
    && mkdir -p /cache /work \
    && chmod 1777 /cache /work
VOLUME /cache
USER unetseg
WORKDIR /work

ENTRYPOINT ["unetseg"]
CMD ["--help"]
