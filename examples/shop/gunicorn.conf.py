"""How every application of the shop is served; gunicorn reads this file from the folder it is started in."""

worker_class = "gthread"
workers = 1
threads = 8
preload_app = True  # it listens only once the application is loaded: who can connect is answered at once
keepalive = (
    75  # seconds; longer than the 60 s after which the proxy drops an idle connection, so the proxy closes first
)
graceful_timeout = 5
control_socket_disable = True  # all five would share one socket in the home directory
loglevel = "warning"
