from pannier.shared.sidecar import main
from pannier.sidecars.discovery.config import Config
from pannier.sidecars.discovery.service import serve

main("discovery", Config, serve)
