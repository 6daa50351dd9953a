# unetseg in a container, for CUDA machines and others. docs/container.md says what it needs and holds.
#
#   docker build -t unetseg .                             torch with CUDA
#   docker build -t unetseg:cpu --build-arg TORCH=cpu .   without

ARG BASE_IMAGE=python:3.12-slim-trixie

FROM ${BASE_IMAGE}
WORKDIR /build

# rasterio's wheel brings GDAL, but not this library.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libexpat1 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt /var/log/dpkg.log

# The dependencies are gigabytes and change seldom: a layer of their own. uv does not stay.
# TORCH: empty for what PyPI has (CUDA 13 on Linux), or a build by uv's name: cpu, cu126, cu130 …
ARG TORCH=
COPY pyproject.toml constraints.txt ./
RUN python3 -m pip install --no-cache-dir --target /tmp/uv --constraint constraints.txt uv \
    && python3 -m venv --without-pip /opt/unetseg \
    && /tmp/uv/bin/uv pip install --no-cache --python /opt/unetseg/bin/python --compile-bytecode \
        ${TORCH:+--torch-backend "$TORCH"} \
        --constraints constraints.txt --requirements pyproject.toml --extra onnx --extra serve \
    && rm -rf /tmp/uv

# The package itself changes often and is small.
COPY README.md LICENSE ./
COPY unetseg ./unetseg
RUN python3 -m pip install --no-cache-dir --target /tmp/uv --constraint constraints.txt uv \
    && /tmp/uv/bin/uv pip install --no-cache --python /opt/unetseg/bin/python --compile-bytecode \
        --no-deps --build-constraints constraints.txt . \
    && rm -rf /tmp/uv /build/*

# Whoever runs the container: what a program writes at home goes to /cache.
RUN useradd --uid 1000 --no-create-home --home-dir /cache --no-log-init unetseg \
    && mkdir -p /cache /work \
    && chmod 1777 /cache /work
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
VOLUME /cache
USER unetseg
WORKDIR /work

ARG REVISION=
LABEL org.opencontainers.image.title="unetseg" \
      org.opencontainers.image.description="Image segmentation with U-Nets: a folder of image/mask pairs in, a trained model and masks out." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The unetseg contributors"

ENTRYPOINT ["unetseg"]
CMD ["--help"]
