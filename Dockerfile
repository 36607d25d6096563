# perpixel with export and the server, on a CPU:
#   docker build -t perpixel .
# On NVIDIA GPUs, whose host needs a driver and the NVIDIA Container Toolkit:
#   docker build --build-arg TORCH=cuda -t perpixel .
FROM python:3.12-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

# The tested versions. PyTorch without CUDA's libraries, 3 GB, has an index of its own.
ARG TORCH=cpu
COPY requirements/lock.txt /src/requirements/
RUN case "$TORCH" in \
    cpu) pip install --no-deps --index-url https://download.pytorch.org/whl/cpu \
        -c /src/requirements/lock.txt torch torchvision ;; \
    cuda) pip install -c /src/requirements/lock.txt torch torchvision ;; \
    *) echo "TORCH=$TORCH: there are cpu and cuda" >&2 && exit 2 ;; \
    esac

COPY pyproject.toml README.md LICENSE /src/
COPY perpixel /src/perpixel
RUN pip install -c /src/requirements/lock.txt '/src[serve,export,png]' \
    && useradd --uid 1000 --create-home perpixel \
    && install -d -o perpixel /cache

USER 1000
WORKDIR /work
ENV PERPIXEL_CACHE=/cache
EXPOSE 8000
ENTRYPOINT ["perpixel"]
CMD ["--help"]
