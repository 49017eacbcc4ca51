# docker build -t syncd .
# docker run -v syncd-state:/var/lib/syncd -v /data/mlruns:/data/mlruns:ro -v ./syncd.toml:/etc/syncd/syncd.toml:ro syncd
FROM python:3.11-slim

WORKDIR /usr/src/syncd
COPY pyproject.toml README.md ./
COPY syncd ./syncd
RUN pip install --no-cache-dir . && rm -rf /usr/src/syncd \
 && useradd --system --uid 10001 --no-create-home syncd \
 && install -d -o syncd -g syncd -m 0750 /var/lib/syncd

# The journal. A container that dies keeps what it has not sent yet only if this outlives it.
VOLUME /var/lib/syncd
WORKDIR /var/lib/syncd
USER 10001
ENTRYPOINT ["syncd"]
CMD ["run", "--config", "/etc/syncd/syncd.toml"]
