# The management server's image: API and control worker, one image with two commands.
#
#   docker build -f deploy/docker/server.Dockerfile -t perdure-server .
#   docker build -f deploy/docker/server.Dockerfile --build-arg BASE_IMAGE=my-debian -t perdure-server .
#
# BASE_IMAGE: any image with Python 3.11 or newer and its venv module (Debian: python3, python3-venv).
# Without an index: put the wheels of requirements-server.txt and of hatchling into ./wheels, and add
# --build-arg PIP_NO_INDEX=1.
# NODE_IMAGE: any image with Node 20.19 or newer and npm, in which the console is built. Without npm's registry: run
# `make console` before, which leaves it in api/static, and add --build-arg NODE_IMAGE=<BASE_IMAGE>. A server without a
# console says so in a browser.
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG NODE_IMAGE=node:22-bookworm-slim

FROM ${NODE_IMAGE} AS console
WORKDIR /build
COPY console console
# `stati[c]` may be absent.
COPY api/stati[c] api/static
RUN if [ ! -f api/static/index.html ] && command -v npm; then \
        npm --prefix console ci --no-audit --no-fund --loglevel=error && npm --prefix console run --silent build; \
    fi \
 && mkdir -p api/static

FROM ${BASE_IMAGE}
ARG PIP_NO_INDEX=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1

# The dependencies first: they change seldom. `wheel[s]` may be absent.
COPY requirements-server.txt wheel[s] /build/wheels/
RUN python3 -m venv /opt/perdure \
 && /opt/perdure/bin/pip install --require-hashes --find-links /build/wheels -r /build/wheels/requirements-server.txt

COPY pyproject.toml README.md LICENSE /build/perdure/
COPY scripts/hatch_build.py /build/perdure/scripts/
COPY perdure /build/perdure/perdure
COPY workflows /build/perdure/workflows
COPY activities /build/perdure/activities
COPY worker_agent /build/perdure/worker_agent
COPY api /build/perdure/api
COPY --from=console /build/api/static /build/perdure/api/static
COPY localcloud /build/perdure/localcloud
RUN /opt/perdure/bin/pip install --no-deps --find-links /build/wheels /build/perdure \
 && rm -r /build \
 && install -d -o 10001 -g 10001 -m 700 /var/lib/perdure /var/lib/perdure/server

# What it keeps (certificate, first token) lies on a volume of this user's.
VOLUME /var/lib/perdure/server
USER 10001:10001
ENV PATH=/opt/perdure/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1
CMD ["python", "-m", "api"]
