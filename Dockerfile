# Two images: `study` (the last, so the default) is the command line and Prefect's workers;
# `server` is Prefect's server, in the versions that were tested together.
#   docker build -t synth-pipeline .
#   docker build -t synth-pipeline-server --target server .
#   docker run --rm --gpus all -v "$PWD/photos:/photos:ro" -v "$PWD/results:/results" \
#     synth-pipeline run configs/faces.yaml --set cases.source=/photos --root /results
FROM python:3.11-slim-bookworm AS base
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    DO_NOT_TRACK=1
# Whoever runs in a container is nobody on the machine; patients' photos are mounted.
RUN useradd --create-home --uid 1000 study && install -d -m 700 -o study -g study /results

# The landmark model, its SHA-256 checked; in a stage of its own, so that no change of the code
# downloads it again.
FROM base AS model
WORKDIR /build
COPY synth_pipeline/__init__.py synth_pipeline/atomic.py synth_pipeline/errors.py synth_pipeline/models.py synth_pipeline/
RUN python3 -m venv /venv \
 && python -c "import pathlib, synth_pipeline.models as m; m.fetch_face_landmarker(pathlib.Path('/model'))"

# The libraries, six gigabytes: torch from PyPI brings its CUDA, the driver comes from the host.
FROM base AS libraries
WORKDIR /build
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN python3 -m venv /venv \
 && mkdir -p synth_pipeline tasks flows \
 && pip install --constraint constraints.txt ".[s3]" \
 && pip uninstall --yes synth-pipeline

FROM base AS server-libraries
WORKDIR /build
COPY constraints.txt ./
RUN python3 -m venv /venv \
 && pip install --constraint constraints.txt prefect prefect-redis fastapi starlette

FROM base AS server
COPY --from=server-libraries /venv /venv
# The dashboard's files are written when it starts; all else is read only.
ENV PREFECT_HOME=/tmp/prefect \
    PREFECT_SERVER_UI_STATIC_DIRECTORY=/tmp/dashboard
USER study
WORKDIR /home/study
# What keeps the dashboard from asking other addresses; it needs nothing else of this package.
COPY flows/guarded_server.py ./
# Inside the container's own network; compose.yaml publishes it on the loopback interface only.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=6 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:4200/api/health', timeout=4)"]
CMD ["python", "-P", "guarded_server.py", "--host", "0.0.0.0", "--no-services"]

FROM base AS study
# MediaPipe links these even where it computes on the processor, and OpenCV, which it imports, glib.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libegl1 libgles2 libgl1 libglib2.0-0 \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -o study -g study /home/study/.cache /home/study/.cache/huggingface
COPY --from=libraries /venv /venv
COPY --from=model --chown=study:study /model /home/study/.cache/synth-pipeline
WORKDIR /app
COPY . .
RUN pip install --no-deps --editable .
# What NVIDIA's container runtime gives: computing, and nvidia-smi.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER study
# A build that lacks a library or the model ends here.
RUN synth-pipeline doctor
HEALTHCHECK --interval=60s --timeout=20s CMD ["synth-pipeline", "--version"]
ENTRYPOINT ["synth-pipeline"]
CMD ["--help"]
