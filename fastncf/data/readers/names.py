"""Names by which user, item and time columns are recognised, in several languages.

A name is a noun alone, or a noun with one affix: ``user``, ``user_id``, ``Kundennummer``, ``id_producto``.
"""

import re
import unicodedata


def normalize_name(name: str) -> str:
    """Return a column name in lower case, without accents, punctuation and the ':type' that RecBole appends."""
    text = unicodedata.normalize("NFKD", name.partition(":")[0]).casefold()
    return "".join(character for character in text if character.isalnum())


def _normalized(*groups: str) -> set[str]:
    """Return the normalized names of groups of words that are separated by blanks."""
    return {normalize_name(word) for group in groups for word in group.split()}


_USERS = _normalized(
    "user customer account visitor reviewer client member buyer shopper consumer",
    "nutzer benutzer kunde kunden kundin käufer mitglied",
    "usuario usuaria cliente comprador utilizador utente",
    "utilisateur utilisatrice acheteur",
    "用户 用戶 使用者 顾客 顧客 客户 客戶 会员 會員 买家",
    "ユーザー ユーザ 利用者 会員 お客様",
)
_USERS_BY_ID = _normalized(
    "cust household person profile listener reader player viewer subscriber guest learner student rater"
)
_ITEMS = _normalized(
    "item movie film product book track song artist album video article business game anime recipe restaurant hotel",
    "artikel produkt buch lied spiel ware",
    "producto artículo articulo película pelicula libro canción juego",
    "produto artigo filme livro música jogo",
    "produit livre chanson jeu",
    "商品 物品 产品 產品 项目 電影 电影 图书 書籍 书籍 歌曲 游戏",
    "アイテム 品目 製品 映画 作品 本 曲",
)
_ITEMS_BY_ID = _normalized(
    "prod bookmark venue location poi news post course app show goods content doc document listing property page offer",
    "stock place photo podcast job ad merchandise material",
)
_ITEM_WORDS = _normalized(
    "iid mid pid asin isbn isbn10 isbn13 sku ean gtin stockcode poi lineitemsku variantsku 品番 型番 货号 貨號"
)
_SUFFIXES = (
    "id no nr num number nummer code key index idx uuid guid hash identifier kennung kod ref uniqueid",
    "编号 編號 编码 代码 号 號 番号 コード",
)
_PREFIXES = (
    "id num numero nro no cod codigo code identifiant unique ref reference",
    "idde iddel iddo idda numerode numerodel codigode codigodel codigodo codigoda codede numerodo idd",
)

_DATES = _normalized(
    "date dt tdat datum fecha data 日期 日付 年月日 購入日 注文日 登録日 評価日 視聴日 利用日",
)
_MOMENTS = _normalized(
    "time timestamp datetime dateandtime timedate ts epoch unixtime unixtimestamp",
    "zeit zeitpunkt zeitstempel uhrzeit datumuhrzeit",
    "hora fechahora fechayhora marcadetiempo marcatemporal",
    "datahora dataehora carimbodetempo",
    "heure horodatage dateheure dateetheure",
    "时间 時間 时间戳 時間戳 日期时间 时刻",
    "日時 時刻 タイムスタンプ",
)
_EVENTS = _normalized(
    "event order purchase transaction review rating rated invoice sale sales visit view viewed click watch watched",
    "play played listen listening checkin created creation added updated server log logged interaction action activity",
    "behavior behaviour utc unix unixreview local access request payment booking checkout",
    "posted submitted reviewed purchased",
    "bestell kauf verkaufs rechnungs transaktions bewertungs erstellungs buchungs",
    "购买 下单 訂單 订单 购物 交易 创建 浏览 点击 评分 評分 評論 评论 購買 購入 注文 登録 閲覧 視聴 作成 評価",
)
_EVENTS_BEHIND = _normalized(
    "compra pedido venta factura valoracion evento creacion visita",
    "venda fatura avaliacao criacao",
    "created added updated purchased ordered commande achat vente facture evaluation creation visite evenement",
)
_LINKS = _normalized("de dela del do da d des")
_UNITS = _normalized(
    "utc gmt ms us ns s sec secs second seconds millis milliseconds micros microseconds nanos unix epoch"
)
_VERBS = _normalized(
    "created rated viewed purchased ordered watched played listened added reviewed clicked visited bought occurred",
    "happened logged posted submitted recorded interacted consumed updated modified",
)
_HOURS = _normalized("hour hourofday timeofday clock stunde 小时 小時 時")


def _any_of(*groups: set[str]) -> str:
    """Return a pattern of any of some words."""
    return f"(?:{'|'.join(map(re.escape, sorted(set().union(*groups))))})"


def _with_affixes(nouns: set[str], nouns_by_id: set[str], others: set[str]) -> re.Pattern[str]:
    """Return a pattern of some nouns alone, of these and some others with one affix, and of some words."""
    prefixes, suffixes = _any_of(_normalized(*_PREFIXES)), _any_of(_normalized(*_SUFFIXES))
    noun = _any_of(nouns, nouns_by_id)
    return re.compile(f"{_any_of(nouns, others)}|{prefixes}{noun}|{noun}{suffixes}")


def _of_events(nouns: set[str]) -> str:
    """Return a pattern of nouns of times, alone or with the event whose time they are."""
    noun = _any_of(nouns)
    return f"(?:{_any_of(_EVENTS)}{{0,2}}{noun}|{noun}{_any_of(_LINKS)}?{_any_of(_EVENTS_BEHIND)})"


DATES = re.compile(_of_events(_DATES))
"""Names of columns that may hold whole days."""

_RATINGS = _normalized(
    "rating ratings rate stars score overall bookrating userrating movierating ratingvalue reviewscore",
    "bewertung sterne note",
    "calificación calificacion puntuación valoración estrellas",
    "avaliação nota estrelas classificação",
    "évaluation etoiles",
    "评分 評分 星级 打分 評価 評価点 レーティング 星",
)
NAMES = {
    "user": _with_affixes(_USERS, _USERS_BY_ID, _normalized("uid")),
    "item": _with_affixes(_ITEMS, _ITEMS_BY_ID, _ITEM_WORDS),
    "rating": re.compile(_any_of(_RATINGS)),
    "time": re.compile(f"{DATES.pattern}|(?:{_of_events(_MOMENTS)}|{_any_of(_VERBS)}at){_any_of(_UNITS)}?"),
}
"""Patterns of the names that are recognised for each role, as :func:`normalize_name` returns them."""

CLOCKS = re.compile(_any_of(_HOURS))
"""Names of columns that hold the time of day beside a date, and are no time without one."""


_LASTING = _normalized("watch play listen listening view visit activity action interaction", "浏览 視聴")
DURATIONS = re.compile(f"{_any_of(_LASTING)}{_any_of(_MOMENTS)}{_any_of(_UNITS)}?")
"""Names of columns that may hold when something was done or how long it took, such as ``watch_time``."""


def has_name_of(role: str, column: str) -> bool:
    """Return whether the name of a column is among those of a role."""
    return NAMES[role].fullmatch(normalize_name(column)) is not None


def is_known(name: str) -> bool:
    """Return whether a column of this name is recognised as a user, an item or a time."""
    return any(has_name_of(role, name) for role in ("user", "item", "time"))
