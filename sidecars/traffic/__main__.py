from pannier.shared.sidecar import main
from pannier.sidecars.traffic.config import Config
from pannier.sidecars.traffic.service import serve

main("traffic", Config, serve)
