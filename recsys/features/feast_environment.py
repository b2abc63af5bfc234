"""What makes Feast use our settings: environment variables, and the configuration they name.

The repository's own ``feature_store.yaml`` has the default addresses, so that Feast's commands work
in it as they are. Where the settings differ, Feast is pointed at a copy that has theirs.
"""

from __future__ import annotations

import os
from pathlib import Path

from recsys.endpoints import resolve
from recsys.features.redis.address import parse
from recsys.settings import Settings


def feast_environment(settings: Settings, repository: Path) -> dict[str, str]:
    """Give the variables that make Feast use ``settings``; writes the file they name.

    The address of Redis may have a password, so it is in a variable and not in the file.
    """
    import yaml

    file = settings.state_dir.resolve() / "feature_store.yaml"
    config = yaml.safe_load((repository / "feature_store.yaml").read_text())
    config["project"] = settings.namespace
    config["registry"]["path"] = str(file.with_name("feast.db"))
    config["offline_store"]["event_log_dir"] = str(settings.event_log_dir.resolve())
    url = resolve(settings).redis_url or f"redis://{settings.host}:{settings.redis_port}"
    config["online_store"]["connection_string"] = "${RECSYS_FEAST_REDIS}"
    config["online_store"]["redis_type"] = "redis_cluster" if parse(url).is_cluster else "redis"
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}")
    temporary.write_text(yaml.safe_dump(config))
    temporary.replace(file)
    return {
        "FEAST_FS_YAML_FILE_PATH": str(file),
        "RECSYS_FEAST_REDIS": feast_connection_string(url),
    }


def feast_connection_string(url: str) -> str:
    """Give Feast's spelling of a Redis address. (Replicas and Unix sockets Feast does not know.)

    >>> feast_connection_string("rediss://app:pa%20ss@cache:6380/2?ssl_ca_certs=/ca.pem")
    'cache:6380,username=app,password=pa ss,db=2,ssl=true,ssl_ca_certs=/ca.pem'
    """
    address = parse(url)
    options = []
    if address.username:
        options.append(f"username={address.username}")
    if address.password:
        options.append(f"password={address.password}")
    if address.database:
        options.append(f"db={address.database}")
    if address.tls is not None:
        options.append("ssl=true")
        files = ("ca_certs", "certfile", "keyfile")
        options += [f"ssl_{n}={path}" for n in files if (path := getattr(address.tls, n))]
        if not address.tls.verify:
            options.append("ssl_cert_reqs=none")
        if not address.tls.verify or not address.tls.check_hostname:
            options.append("ssl_check_hostname=false")
    return ",".join([*map(str, address.nodes), *options])
