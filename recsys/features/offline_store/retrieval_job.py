"""What Feast hands back for a question: nothing is read before the answer is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.saved_dataset import SavedDatasetStorage
from pyarrow import fs

from recsys.errors import ConfigurationError
from recsys.features.offline_store.sources import located
from recsys.features.offline_store.writes import replace_data


class PointInTimeRetrievalJob(RetrievalJob):
    """A question to the store; each call of ``to_arrow`` and its kin reads the source anew.

    Args:
        evaluate: Reads the answer, without on-demand features; Feast's base class adds those and
            validates.
        pieces: Reads the same answer piece by piece, so that it is saved without being held; None
            where only the whole can be had.
        repo_path: Where relative paths of saved data sets begin.
    """

    def __init__(
        self,
        evaluate: Callable[[], pa.Table],
        *,
        repo_path: Any,
        pieces: Callable[[], Iterable[pa.Table]] | None = None,
        full_feature_names: bool = False,
        on_demand_feature_views: Sequence[OnDemandFeatureView] = (),
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._evaluate = evaluate
        self._pieces = pieces
        self._repo_path = repo_path
        self._full_feature_names = full_feature_names
        self._on_demand_feature_views = list(on_demand_feature_views)
        self._metadata = metadata

    @property
    def full_feature_names(self) -> bool:
        """Whether features are called ``view__feature``."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """Views whose transformations run on the answer."""
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """Features, keys and span of moments that were asked for; None for plain pulls."""
        return self._metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._evaluate()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._evaluate().to_pandas()
        return frame

    def to_polars(self) -> pl.DataFrame:
        """The answer of ``to_arrow`` as a Polars frame."""
        return pl.DataFrame(self.to_arrow())

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool = False,
        timeout: int | None = None,
    ) -> None:
        """Write the answer, on-demand features included, as a data set of its own.

        It is there as a whole or not at all: a file is renamed into place, a folder too. It is
        written piece by piece; with on-demand features, which may look at all rows, as one table.

        Raises:
            SavedDatasetLocationAlreadyExists: something is there and may not be overwritten.
        """
        if not isinstance(storage, SavedDatasetFileStorage):
            raise ConfigurationError(
                f"saved data set: wanted SavedDatasetFileStorage, found {type(storage).__name__}"
            )
        filesystem, path = located(storage.to_data_source(), self._repo_path)
        exists = SavedDatasetLocationAlreadyExists(location=storage.file_options.uri)
        if not allow_overwrite and filesystem.get_file_info(path).type != fs.FileType.NotFound:
            raise exists  # before the work, and looked at once more after it
        rows: pa.Table | Iterable[pa.Table]
        if self._pieces is None or self._on_demand_feature_views:
            rows = self.to_arrow(timeout=timeout)
        else:
            rows = self._pieces()
        if not replace_data(filesystem, path, rows, overwrite=allow_overwrite):
            raise exists
