"""``GET /v1/users/{user_id}``: what the system knows."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from recsys.explanations import user_profile, user_summary
from recsys.wire import UserResponse
from serving.api.deadlines import deadline_of
from serving.api.decoding import check_identifier, refuse_unknown_parameters
from serving.api.routes.json_response import json_response
from serving.api.services import Services


async def user(request: Request) -> Response:
    """Answer ``GET /v1/users/{user_id}``."""
    services: Services = request.app.state.services
    refuse_unknown_parameters(request, frozenset())
    user_id = check_identifier(request.path_params["user_id"], "user_id")
    live = services.live()
    deadline = deadline_of(request, services.pipeline)
    context, profile = await asyncio.gather(
        live.user(user_id, deadline), live.profile(user_id, deadline)
    )
    return json_response(
        UserResponse(
            user_id=user_id,
            known=context.known,
            bundle=live.bundle.bundle_id,
            profile=user_profile(profile),
            features=user_summary(live.bundle, context),
        )
    )
