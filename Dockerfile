# captioner without torch: captions, scores and the server.
#
#     docker build -t captioner .
#     docker run -p 127.0.0.1:8000:8000 captioner
#     docker run -v "$PWD/photos:/photos:ro" captioner caption /photos
FROM python:3.11-slim
COPY constraints.txt setup.cfg pyproject.toml README.md LICENSE /source/
COPY requirements /source/requirements
COPY captioner /source/captioner
COPY checkpoints /source/checkpoints
WORKDIR /source
RUN pip install --no-cache-dir --no-deps -c constraints.txt -r requirements/slim.txt -r requirements/slim-serve.txt
RUN pip install --no-cache-dir --no-deps .
RUN useradd --create-home captioner
USER captioner
WORKDIR /home/captioner
EXPOSE 8000
HEALTHCHECK --start-period=20s CMD ["python", "-c", "from http.client import HTTPConnection; c = HTTPConnection('127.0.0.1', 8000); c.request('GET', '/health/ready'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["captioner"]
CMD ["serve", "--host", "0.0.0.0", "--allow-host", "localhost"]
