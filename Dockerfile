# One image for everything: the command line and, later, Prefect's workers.
#   docker build -t synth-pipeline .
#   docker run --rm --gpus all -v "$PWD/photos:/photos:ro" -v "$PWD/results:/results" \
#     synth-pipeline run configs/faces.yaml --set cases.source=/photos --root /results
FROM python:3.11-slim

RUN apt-get update \
 && apt-get install -y --no-install-recommends libegl1 libgles2 libgl1 \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /app
# First what rarely changes: the libraries stay in a layer of their own.
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN mkdir -p synth_pipeline tasks flows \
 && pip install --no-cache-dir --constraint constraints.txt . \
 && pip uninstall --yes synth-pipeline

COPY synth_pipeline synth_pipeline
COPY tasks tasks
COPY flows flows
COPY configs configs
RUN pip install --no-cache-dir --no-deps --editable .

# Patients' photos are mounted; nobody needs to be root to read them.
RUN useradd --create-home --uid 1000 study && mkdir /results && chown study /results
USER study
RUN synth-pipeline doctor --fetch || true

ENTRYPOINT ["synth-pipeline"]
CMD ["--help"]
