/* An echo on libuv, in C, with uv_try_write first. usage: uv PORT */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

typedef struct {
  uv_write_t request;
  char rest[];
} pending;

static char buffer[65536];

static void on_alloc(uv_handle_t *handle, size_t wanted, uv_buf_t *out) {
  (void)handle, (void)wanted;
  *out = uv_buf_init(buffer, sizeof buffer);
}

static void on_close(uv_handle_t *handle) { free(handle); }

static void drop(uv_stream_t *stream) {
  if (!uv_is_closing((uv_handle_t *)stream)) uv_close((uv_handle_t *)stream, on_close);
}

static void on_read(uv_stream_t *stream, ssize_t length, const uv_buf_t *bytes);

static void on_written(uv_write_t *request, int status) {
  uv_stream_t *stream = request->handle;
  free(request);
  if (status != 0) drop(stream);
  else if (!uv_is_closing((uv_handle_t *)stream)) uv_read_start(stream, on_alloc, on_read);
}

/* Nothing is read while the socket does not take what was read before. */
static void write_rest(uv_stream_t *stream, const char *bytes, size_t length) {
  pending *p = malloc(sizeof *p + length);
  if (p == NULL) return drop(stream);
  memcpy(p->rest, bytes, length);
  uv_buf_t rest = uv_buf_init(p->rest, (unsigned)length);
  uv_read_stop(stream);
  uv_write(&p->request, stream, &rest, 1, on_written);
}

static void on_read(uv_stream_t *stream, ssize_t length, const uv_buf_t *bytes) {
  if (length < 0) return drop(stream);
  uv_buf_t out = uv_buf_init(bytes->base, (unsigned)length);
  int written = uv_try_write(stream, &out, 1);
  if (written == UV_EAGAIN) written = 0;
  if (written < 0) return drop(stream);
  if (written < length) write_rest(stream, bytes->base + written, (size_t)(length - written));
}

static void on_connection(uv_stream_t *listener, int status) {
  uv_tcp_t *stream = malloc(sizeof *stream);
  if (status != 0 || stream == NULL) return free(stream);
  uv_tcp_init(listener->loop, stream);
  if (uv_accept(listener, (uv_stream_t *)stream) != 0) return uv_close((uv_handle_t *)stream, on_close);
  uv_tcp_nodelay(stream, 1);
  uv_read_start((uv_stream_t *)stream, on_alloc, on_read);
}

int main(int argc, char **argv) {
  uv_tcp_t listener;
  struct sockaddr_in address;
  if (argc < 2) return 2;
  signal(SIGPIPE, SIG_IGN);
  uv_ip4_addr("127.0.0.1", atoi(argv[1]), &address);
  uv_tcp_init(uv_default_loop(), &listener);
  if (uv_tcp_bind(&listener, (struct sockaddr *)&address, 0) != 0) return 1;
  if (uv_listen((uv_stream_t *)&listener, 4096, on_connection) != 0) return 1;
  return uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}
