# The pipeline's environment: Prefect server, workers, agent, gateway, flow runs. NEVER BUILT and never run; infra/compose.yaml uses it.
#   docker build -f infra/images/pipeline.Dockerfile -t empelt-pipeline .        (from the repository root)
FROM python:3.11-slim

# The same numeric user in both images: the agent talks to the launcher over a socket of mode 0600 on a shared volume.
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin empelt \
 && mkdir -p /app /var/lib/empelt/home /var/lib/empelt/run /var/lib/empelt/logs /var/lib/empelt/store \
 && chmod 700 /var/lib/empelt/run \
 && chown -R empelt:empelt /app /var/lib/empelt

WORKDIR /app
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir 'uv>=0.9'

# The lock first: code changes more often. torch comes as the index has it (on PyPI a CUDA build).
COPY --chown=empelt:empelt infra/pipeline/requirements.lock infra/pipeline/overrides.txt infra/pipeline/
USER empelt
RUN uv venv .venv \
 && uv pip install --no-cache --python .venv/bin/python --override infra/pipeline/overrides.txt -r infra/pipeline/requirements.lock

COPY --chown=empelt:empelt pyproject.toml README.md LICENSE ./
COPY --chown=empelt:empelt flows flows
COPY --chown=empelt:empelt tasks tasks
COPY --chown=empelt:empelt deployments deployments
# The agent asks whether the launcher's script is there, although another container runs it.
COPY --chown=empelt:empelt infra/serving infra/serving
RUN uv pip install --no-cache --python .venv/bin/python --no-deps --editable .
COPY --chown=empelt:empelt infra/images/with-secrets.sh infra/images/
COPY --chown=empelt:empelt infra/kubernetes infra/kubernetes

ENV EMPELT_HOME=/var/lib/empelt/home PREFECT_HOME=/var/lib/empelt/home/prefect
VOLUME /var/lib/empelt
ENTRYPOINT ["/app/infra/images/with-secrets.sh"]
CMD ["empelt", "--help"]
