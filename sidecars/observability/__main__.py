from pannier.shared.sidecar import main
from pannier.sidecars.observability.config import Config
from pannier.sidecars.observability.service import serve

main("observability", Config, serve)
