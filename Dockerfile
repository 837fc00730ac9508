# One image for every process of a deployment; see docs/deploy.md. Versions are those of constraints.txt.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/recsys/venv
ENV PATH=/opt/recsys/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# The packages first: this layer stays until a requirement changes. PyTorch's index has builds for the CPU, a tenth of
# the size; for a GPU build with --build-arg TORCH_INDEX=https://pypi.org/simple
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY pyproject.toml constraints.txt ./
RUN pip install --no-deps --index-url "$TORCH_INDEX" "$(grep '^torch==' constraints.txt)" \
    && mkdir recsys_dagster assets resources \
    && touch README.md LICENSE recsys_dagster/__init__.py assets/__init__.py resources/__init__.py \
    && pip install --constraint constraints.txt '.[postgres,s3]' \
    && pip uninstall --yes recsys-dagster
COPY . .
RUN pip install --no-deps .

FROM python:3.11-slim-bookworm
# libgomp: scikit-learn and torch compute in threads with it.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1=12.* tini=0.19.* \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/cache/recsys --create-home recsys \
    && install --directory --owner=recsys --group=recsys --mode=0700 /var/lib/recsys
COPY --from=build /opt/recsys/venv /opt/recsys/venv
COPY datasets.toml /etc/recsys/datasets.toml
ENV PATH=/opt/recsys/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RECSYS_HOME=/var/lib/recsys \
    RECSYS_DATASETS=/etc/recsys/datasets.toml \
    NUMBA_CACHE_DIR=/var/cache/recsys/numba \
    DAGSTER_HOME=/var/lib/recsys/dagster \
    MPLCONFIGDIR=/var/cache/recsys/matplotlib \
    TMPDIR=/var/cache/recsys
USER 10001
WORKDIR /var/lib/recsys
VOLUME ["/var/lib/recsys", "/var/cache/recsys"]
EXPOSE 3000 3010 4000
# Of the webserver; docs/deploy.md has those of the other processes.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/server_info', timeout=5)"]
ENTRYPOINT ["tini", "--", "recsys-dagster"]
CMD ["serve", "webserver"]
