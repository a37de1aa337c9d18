# The images of a node and of the load test. Neither holds a compiler, pip's cache, or anything to write to.
#
#     docker build --target runtime -t kvstore:local .
#
# PYTHON_IMAGE is the base of all stages. PIP_INDEX_URL and its like go to the builders only, for networks where
# pip must be told its index; docs/docker.md says more. Nothing here needs BuildKit.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# -- builder: a virtual environment with the node and what it needs, in the versions that the tests ran with
FROM ${PYTHON_IMAGE} AS builder
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/kvstore
ENV PATH=/opt/kvstore/bin:${PATH}
WORKDIR /source
# What is needed comes before our own code, which changes more often.
COPY pyproject.toml constraints.txt ./
RUN python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
      > needed.txt \
    && pip install -c constraints.txt -r needed.txt
COPY README.md LICENSE ./
COPY storage storage
COPY cluster cluster
COPY kvstore kvstore
COPY cli cli
RUN pip install --no-deps . && pip check

FROM builder AS loadtest-builder
RUN pip install -c constraints.txt locust && pip check

# -- runtime: the node
FROM ${PYTHON_IMAGE} AS runtime
# A number, so that it can be seen to be no root without a look at /etc/passwd. A new volume takes over the owner of
# the folder that it is mounted on.
RUN mkdir /data /secret && chown 10001:10001 /data /secret && chmod 700 /data /secret
COPY --from=builder /opt/kvstore /opt/kvstore
ENV PATH=/opt/kvstore/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    KVSTORE_DATA=/data \
    KVSTORE_HTTP=0.0.0.0:7001
USER 10001:10001
WORKDIR /data
EXPOSE 7001 7101
# It starts in a tenth of a second, and asks this node alone.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD ["kvstore", "health", "--endpoints", "http://127.0.0.1:7001"]
ENTRYPOINT ["kvstore"]
CMD ["serve"]

# -- loadtest: the same, with Locust and the load test
FROM runtime AS loadtest
COPY --from=loadtest-builder /opt/kvstore /opt/kvstore
COPY loadtests /opt/loadtest/loadtests
WORKDIR /opt/loadtest
HEALTHCHECK NONE
ENTRYPOINT ["locust", "-f", "loadtests/locustfile.py"]
CMD []
