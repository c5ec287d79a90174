"""Names by which user, item, time and rating columns are recognised, in several languages.

A name is a noun alone, or a noun with one affix: ``user``, ``user_id``, ``Kundennummer``, ``id_producto``. Some names
serve only where no column has a better one: that of a session, or of a mail address, where nothing else tells users
apart.
"""

import re
import unicodedata
from collections.abc import Sequence

_TYPE = re.compile(r"(?<=.):(token|float|token_seq|float_seq)$")

_SEQUENCE = re.compile(r".:(token|float)_seq$")


_PLAIN_LETTERS = str.maketrans("\u0131łøđ", "ilod")
"""Letters that Unicode does not take apart into a plain letter and an accent."""


def normalize_name(name: str) -> str:
    """Return a column name in lower case, without accents, punctuation and the ':type' that RecBole appends."""
    text = unicodedata.normalize("NFKD", _TYPE.sub("", name)).casefold().translate(_PLAIN_LETTERS)
    return "".join(character for character in text if character.isalnum())


def _normalized(*groups: str) -> set[str]:
    """Return the normalized names of groups of words that are separated by blanks."""
    return {normalize_name(word) for group in groups for word in group.split()}


_USERS = _normalized(
    "user customer account visitor reviewer client member buyer shopper consumer",
    "nutzer benutzer kunde kunden kundin käufer mitglied debitor",
    "usuario usuaria cliente comprador utilizador utente acquirente",
    "utilisateur utilisatrice acheteur",
    "用户 用戶 使用者 顾客 顧客 客户 客戶 会员 會員 买家 買家 消费者 读者",
    "ユーザー ユーザ 利用者 会員 お客様 購入者",
    "사용자 이용자 유저 고객 회원 구매자",
    "пользователь пользователя клиент клиента покупатель покупателя посетитель посетителя заказчик",
    "заказчика контрагент контрагента клієнт клієнта користувач користувача покупець покупця",
    "klant gebruiker koper bezoeker consument",
    "klient klienta użytkownik użytkownika kupujący kupującego nabywca nabywcy odbiorca odbiorcy",
    "müşteri kullanici üye alici ziyaretçi",
    "kund användare köpare besökare medlem kunde bruger bruker køber kjøper asiakas asiakkaan käyttäjä käyttäjän",
    "zákazník zákazníka uživatel uživatele používateľ používateľa utilizator utilizatorul utilizatorului",
    "ügyfél vásárló felhasználó πελάτης πελάτη χρήστης χρήστη pelanggan pengguna pembeli kháchhàng ngườidùng",
    "abonné adhérent abonado socio",
)
_USERS_BY_ID = _normalized(
    "cust household person profile listener reader player viewer subscriber guest learner student rater patron",
    "borrower traveler traveller patient candidate applicant donor voter passenger",
    "mitglieds debitoren lid lener czytelnik czytelnika",
    "читателя",
)
_USER_WORDS = _normalized(
    "uid steamid revuser msno ncodpers kunnr kunag soldtoparty 0customer customeruser custaccount kdnr",
    "userpseudoid fullvisitorid buyeruserid customeruserid",
    "会员卡号 会員カード番号",
)
_USERS_OTHERWISE = _normalized(
    "session visit usersession anonymous anonymoususer distinct device cookie domainuser networkuser basket playlist",
    "employee partner contact",
    "セッション 会话 會話 세션 сессии",
)
_NAMED_PEOPLE = _normalized(
    "user customer client member buyer reviewer kunden käufer cliente comprador acheteur utilisateur billing shipping",
    "contact account guest subscriber usuario utente acquirente",
)
_MAILS = _normalized("email mail emailaddress mailadresse emailadresse correo correoelectronico courriel adressemail")
_PEOPLE_WORDS = _normalized(
    "username login nickname screenname profilename reviewprofilename fromemailaddress nutzername benutzername",
    "buyerusername nombredeusuario nomutilisateur nomeutente",
    "用户名 用戶名 买家会员名 昵称 会员名 ユーザー名 ニックネーム メールアドレス 電子メール 邮箱 电子邮件 手机号",
    "이메일 닉네임 아이디 логин email почта",
)
_ITEMS = _normalized(
    "item movie film product book track song artist album video article business game anime recipe restaurant hotel",
    "artikel produkt buch lied spiel ware",
    "producto artículo articulo película pelicula libro canción juego",
    "produto artigo filme livro música jogo",
    "produit livre chanson jeu",
    "articolo prodotto libro canzone brano gioco",
    "商品 物品 产品 產品 项目 電影 电影 图书 書籍 书籍 歌曲 游戏 宝贝 视频 音乐",
    "アイテム 品目 製品 映画 作品 本 曲 動画 書籍",
    "상품 제품 아이템 영화 도서 책 음악 노래 곡 게임 작품 품목 물품",
    "товар товара продукт продукта фильм фильма книга книги песня песни трек трека игра игры статья статьи",
    "номенклатура",
    "номенклатуры фільм фільму товару",
    "boek liedje spel",
    "produktu towar towaru filmu książka książki utwór utworu gra gry",
    "ürün kitap şarki oyun",
    "vara bok låt vare bog sang tuote tuotteen elokuva elokuvan kirja kirjan",
    "zboží kniha knihy píseň písně produs produsul produsului filmul filmului articol articolul articolului",
    "termék könyv προϊόν προϊόντος ταινία ταινίας βιβλίο βιβλίου produk barang buku lagu sảnphẩm",
    "ouvrage",
)
_ITEMS_BY_ID = _normalized(
    "prod bookmark venue location poi news post course app show goods content doc document listing property page offer",
    "stock place photo podcast job ad merchandise material story episode paper beer wine manga clip program programme",
    "lesson exercise question element creative publication food dish attraction gmap product2",
    "title repo repository drug medication streamer",
    "medien titel 書誌",
    "sku ean gtin upc jan isbn asin",
)
_ITEM_WORDS = _normalized(
    "iid mid pid aid asin parentasin isbn isbn10 isbn13 sku ean gtin upc stockcode poi lineitemsku variantsku linesku",
    "lineproduct lineproductid lineitemproductid productsku itemsku matnr 0material pinid trackuri spotifytrackuri",
    "songuri trackmbid recordingmbid artistmbid artnr artikelnr bestellnummer artikul артикул jan jancode productref",
    "品番 型番 货号 貨號 条码 条形码 품번 상품명",
    "cikkszám stokkodu",
)
_SUFFIXES = (
    "id no nr num number nummer code key index idx uuid guid uid hash identifier kennung kod ref reference",
    "uniqueid uri",
    "编号 編號 编码 代码 号 號 番号 コード",
    "번호 코드 아이디",
    "ид номер код",
    "kodu numarasi kimliği numero tunnus koodi azonosító kód szám",
)
_PREFIXES = (
    "id num numero nro no n cod codigo codice code identifiant identificativo unique ref reference codart",
    "идентификатор ид номер код",
    "ідентифікатор ід kod numer identyfikator číslo codul κωδικός kode nomor mã",
    "idde iddel iddo idda iddu iddela numerode numerodel numerodu codigode codigodel codigodo codigoda codede codedu",
    "numerodo identifiantde identifiantdu codicedel codicedella idd iddell codicedell numeroda referencedu",
)
_DONE = _normalized("clicked click viewed purchased bought watched played rated recommended target")
TITLES = _normalized(
    "title titel titre titulo titolo movietitle booktitle producttitle productname itemname tracktitle songtitle",
    "moviename bookname gamename trackname songname artistname lineitemname articlename filmname videotitle",
    "produktname artikelname produkttitel filmtitel buchtitel nombreproducto nombredelproducto nomeproduto",
    "bezeichnung artikelbezeichnung produktbezeichnung warenbezeichnung productnaam artikelnaam ürünadi produktnamn",
    "nazwaproduktu nazwatowaru tytuł tytułfilmu tytułksiążki наименованиетовара названиетовара названиефильма",
    "nomedoproduto nomproduit nomduproduit titreproduit nomeprodotto",
    "标题 標題 商品名 商品名称 商品名稱 电影名 电影名称 书名 歌名 宝贝标题 产品名称 タイトル 題名 品名 書名",
    "제목 상품명 제품명 영화제목 도서명 название наименование",
)
"""Names of columns of titles, normalized; a title tells items apart where no column has their ids."""

_ITEMS_OTHERWISE = TITLES | _normalized("variantid variationid reference ref")

_DATES = _normalized(
    "date dt dttm tdat datum fecha data 日期 日付 年月日 購入日 注文日 登録日 評価日 視聴日 利用日 受注日 売上日",
    "transdate trandate erdat fkdat audat budat bldat 0calday calendarday",
    "날짜 일자 일시 주문일 구매일 등록일 작성일 дата",
    "대출일 대여일 貸出日 tarih tarihi dato päivämäärä pvm päivä dátuma ημερομηνία tanggal ngày",
)
_MOMENTS = _normalized(
    "time timestamp tstamp datetime dateandtime timedate ts epoch unixtime unixtimestamp",
    "zeit zeitpunkt zeitstempel uhrzeit datumuhrzeit",
    "hora fechahora fechayhora marcadetiempo marcatemporal",
    "datahora dataehora dataeora dataora orario carimbodetempo ora",
    "heure horodatage dateheure dateetheure",
    "时间 時間 时间戳 時間戳 日期时间 时刻",
    "日時 時刻 タイムスタンプ",
    "시간 시각 타임스탬프 주문일시 구매일시 등록일시 время датаивремя",
    "час датаічас tijd tijdstip tijdstempel czas godzina zaman saat tidpunkt tidspunkt aika ajankohta aikaleima",
    "čas időpont időbélyeg ώρα waktu thờigian",
)
_EVENTS = _normalized(
    "event order purchase transaction review rating rated invoice sale sales visit view viewed click watch watched",
    "play played listen listening checkin created creation added updated server log logged interaction action activity",
    "behavior behaviour utc unix unixreview local access request payment booking checkout impression session collector",
    "derived loan rental borrow enrolled enrollment enrolment answer document posting visitstart",
    "posted submitted reviewed purchased last first latest rev revision vote download install application prescription",
    "bestell auftrags beleg kauf verkaufs rechnungs transaktions bewertungs erstellungs buchungs",
    "购买 下单 訂單 订单 购物 交易 创建 浏览 点击 评分 評分 評論 评论 購買 購入 注文 登録 閲覧 視聴 作成 評価 受注",
    "行为 播放 观看 收藏 주문 구매 등록 평가 시청 작성 클릭 조회",
    "ausleih leih verleih entleih bestel aankoop koop factuur uitleen 借阅 借閱 借书 借書 借出 貸出 대출 대여",
    "sipariş satiş aliş işlem fatura köp ordre køb kjøp tilaus osto",
)
_EVENTS_BEHIND = _normalized(
    "compra pedido venta factura valoracion evento creacion visita registro transaccion",
    "venda fatura avaliacao criacao registo",
    "acquisto ordine vendita fattura valutazione visione creazione registrazione",
    "created added updated purchased ordered order purchase commande achat vente facture evaluation creation visite",
    "evenement visionnage add upd review reviewed listened watched",
    "заказа покупки просмотра оценки создания события продажи транзакции отзыва прослушивания",
    "выдачи замовлення продажу prestamo emprestimo pret emprunt prestito aankoop bestelling verkoop",
    "zakupu zamówienia sprzedaży oceny wypożyczenia transakcji obejrzenia nákupu objednávky prodeje hodnocení",
    "comenzii achiziției vânzării αγοράς παραγγελίας pembelian pesanan transaksi mua",
)
_LINKS = _normalized("de dela del do da di du d della dell des of van")
_UNITS = _normalized(
    "utc gmt ms us ns s sec secs second seconds millis milliseconds micros microseconds nanos unix epoch"
)
_VERBS = _normalized(
    "created rated viewed purchased ordered watched played listened added reviewed clicked visited bought occurred",
    "happened logged posted submitted recorded interacted consumed updated modified placed",
    "borrowed rented liked saved enrolled applied prescribed followed starred voted shared downloaded installed",
)
_HOURS = _normalized("hour hourofday timeofday clock stunde 小时 小時 時 erzet")


def _any_of(*groups: set[str]) -> str:
    """Return a pattern of any of some words."""
    return f"(?:{'|'.join(map(re.escape, sorted(set().union(*groups))))})"


def _with_affixes(nouns: set[str], nouns_by_id: set[str], others: set[str], before: set[str]) -> str:
    """Return a pattern of some nouns alone, of these and some others with one affix, and of some words.

    Args:
        nouns: words that serve alone.
        nouns_by_id: words that serve with an affix only.
        others: words that serve as they are.
        before: words that may stand before a noun with an affix.
    """
    prefixes, suffixes = _any_of(_normalized(*_PREFIXES)), _any_of(_normalized(*_SUFFIXES))
    noun, earlier = _any_of(nouns, nouns_by_id), f"{_any_of(before)}?" if before else ""
    return f"{_any_of(nouns, others)}|{prefixes}{noun}|{earlier}{noun}{suffixes}"


def _of_events(nouns: set[str]) -> str:
    """Return a pattern of nouns of times, alone or with the event whose time they are."""
    noun = _any_of(nouns)
    return f"(?:{_any_of(_EVENTS)}{{0,2}}{noun}|{noun}{_any_of(_LINKS)}?{_any_of(_EVENTS_BEHIND)})"


DATES = re.compile(f"{_of_events(_DATES)}{_any_of(_normalized('utc gmt'))}?")
"""Names of columns that may hold whole days."""

_RATINGS = _normalized(
    "rating ratings rate stars score overall bookrating userrating movierating starrating ratingvalue reviewscore",
    "reviewrating reviewoverall ratingscore myscore preference",
    "bewertung sterne note punkte",
    "calificación calificacion puntuación valoración estrellas",
    "avaliação nota estrelas classificação",
    "évaluation etoiles",
    "voto valutazione punteggio stelle",
    "评分 評分 星级 打分 評価 評価点 レーティング 星",
    "평점 별점 점수 оценка рейтинг",
    "оцінка beoordeling sterren ocena puan betyg bedømmelse arvosana hodnocení értékelés βαθμολογία penilaian",
)
NAMES = {
    "user": re.compile(_with_affixes(_USERS, _USERS_BY_ID, _USER_WORDS, set())),
    "item": re.compile(_with_affixes(_ITEMS, _ITEMS_BY_ID, _ITEM_WORDS, _DONE)),
    "rating": re.compile(_any_of(_RATINGS)),
    "time": re.compile(
        f"{DATES.pattern}|(?:{_of_events(_MOMENTS)}|{_any_of(_VERBS)}(?:at|on)|created){_any_of(_UNITS)}?"
    ),
}
"""Patterns of the names that are recognised for each role, as :func:`normalize_name` returns them."""

_LATER_NAMES = {
    "user": re.compile(
        f"{_any_of(_NAMED_PEOPLE)}?{_any_of(_MAILS)}|{_any_of(_MAILS)}{_any_of(_NAMED_PEOPLE)}|{_any_of(_PEOPLE_WORDS)}"
    ),
    "item": re.compile(_any_of(_ITEMS_OTHERWISE)),
}
"""Patterns of the names that serve for a role where no column has one of the first choice."""

_LAST_NAMES = {"user": re.compile(_with_affixes(set(), _USERS_OTHERWISE, {"session", "visit"}, set()))}
"""Patterns of the names that serve where no other column does: a visit or a device is not always the same person's."""

_OF_LINES = re.compile("line(?:item)?(?:sku|productid|product|name|quantity|price)")
"""Names of columns that tables of orders have, one row for each line of an order: ``id`` is that of the order there."""

CLOCKS = re.compile(_any_of(_HOURS))
"""Names of columns that hold the time of day beside a date, and are no time without one."""


_LASTING = _normalized(
    "watch watched play played listen listening listened view viewed visit activity action interaction read session",
    "浏览 視聴 观看 播放 시청",
)
DURATIONS = re.compile(f"{_any_of(_LASTING)}{_any_of(_MOMENTS)}{_any_of(_UNITS)}?")
"""Names of columns that may hold when something was done or how long it took, such as ``watch_time``."""


def has_name_of(role: str, column: str) -> bool:
    """Return whether the name of a column is among those of the first choice for a role."""
    return NAMES[role].fullmatch(normalize_name(column)) is not None


def columns_named(role: str, columns: Sequence[str]) -> list[str]:
    """Return the columns that have a name of a role; those with a name of the second choice where there is no other.

    There is no second choice beside a column that is called ``id``, which may be a better one, unless it is that of an
    order. A column of sequences, as RecBole names their type, has no role: see
    :mod:`fastncf.data.readers.sequence_columns`.
    """
    named = {column: normalize_name(column) for column in columns if not _SEQUENCE.search(column)}
    may_be_id = "id" in named.values() and not any(map(_OF_LINES.fullmatch, named.values()))
    for patterns in (NAMES,) if may_be_id else (NAMES, _LATER_NAMES, _LAST_NAMES):
        if role in patterns and (found := [column for column in named if patterns[role].fullmatch(named[column])]):
            return found
    return []


def is_known(name: str) -> bool:
    """Return whether a column of this name is recognised as a user, an item or a time."""
    return any(columns_named(role, [name]) for role in ("user", "item", "time"))
