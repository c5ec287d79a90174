"""Which columns are the user, the item and the time."""

import datetime as dt
import re

import pandas as pd
import polars as pl
import pytest

import fastncf
from fastncf.errors import DataError
from tests.data.readers.conftest import BARE_ROWS, ROWS, check_refusal, parquet, read, rows


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("1,2\n3,4\n", [(1, 2), (3, 4)]),
        ("1,2,5\n3,4,1\n", [(1, 2), (3, 4)]),
        ("1,2,\n3,4,1\n", [(1, 2), (3, 4)]),
        ("1,2,1112486027\n3,4,1112486028\n", [(1, 2, 1112486027), (3, 4, 1112486028)]),
        ("1,2,2005-04-02\n3,4,2005-04-03\n", [(1, 2, 1112400000000000), (3, 4, 1112486400000000)]),
        ("a,b,5,900000009\nc,d,1,900000008\n", [("a", "b", 900000009), ("c", "d", 900000008)]),
        ("1,2,,900000009\n3,4,1,900000008\n", [(1, 2, 900000009), (3, 4, 900000008)]),
    ],
)
def test_columns_without_header(write, content, expected):
    assert rows(write(content), needs_time=False) == expected


def test_named_columns(write):
    assert rows(write("who,what,when\n1,2,4\n5,6,8\n"), user="who", item="what", time="when") == ROWS
    swapped = write("2\t1\t3\t1112486027\n6\t5\t7\t1112486028\n")
    assert rows(swapped, user="column_2", item="column_1") == BARE_ROWS
    wide = write("4,x,x,2,1\n8,x,x,6,5\n")
    assert rows(wide, user="column_5", item="column_4", time="column_1") == ROWS
    assert rows(pd.DataFrame([[1, 2, 4], [5, 6, 8]]), user=0, item=1, time=2) == ROWS


BAD = {
    "no user column": ("who,item,time\n1,2,3\n4,5,6\n", "which column is the user? its columns are who, item, time"),
    "two user columns": ("user,item,user,time\n1,2,3,4\n", "which column is the user? 2 are called 'user'"),
    "no time column": ("user,item,rating\n1,2,3\n4,5,6\n", "has no time column (its columns are user, item, rating)"),
    "nameless, no time": ("1,2,3\n4,5,4\n", "choose split='random'"),
    "five nameless": ("1,2,3,4,5\n1,2,3,4,5\n", "has 5 columns and no header"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_bad_files(write, content, message):
    check_refusal(write(content), message)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"user": "who"}, "has no column 'who' for user=; its columns are user, item, time"),
        ({"user": "item"}, "one column cannot serve twice"),
        ({"time": "user"}, "one column cannot serve twice"),
    ],
)
@pytest.mark.parametrize("kind", [pl.DataFrame, pd.DataFrame])
def test_bad_names(kind, names, message):
    with pytest.raises(DataError) as error:
        read(kind({"user": [1, 2], "item": [1, 2], "time": [1, 2]}), **names)
    assert message in str(error.value)


def test_a_name_that_no_header_holds(write):
    with pytest.raises(DataError, match="has no column 'who' for user=; its columns are person, thing"):
        read(write("person,thing\na,b\nc,d\n"), user="who", item="thing", needs_time=False)


def test_duplicated_columns_of_a_pandas_frame():
    frame = pd.DataFrame([[1, 2, 3, 4]], columns=["user", "item", "user", "time"])
    with pytest.raises(DataError, match="which column is the user"):
        read(frame)


@pytest.mark.parametrize("width", [5, 5000])
def test_messages_about_many_columns_end_with_what_is_expected(width):
    with pytest.raises(DataError, match="which column is the user") as error:
        read(pl.DataFrame({f"feature_{i}": [1] for i in range(width)}))
    assert len(str(error.value)) <= 500
    assert str(error.value).endswith("name it with user=..., or call it user or user_id")


DATE_AND_TIME = {
    "numbers": ([20200101, 20200102, 20200102], [959, 800, 2359]),
    "HHMMSS": ([20200101, 20200102, 20200102], [235959, 101, 200]),
    "whole floats as text": (["20200101.0", "20200102.0", "20200102.0"], ["2359.0", "800.0", "801.0"]),
    "hours": (["2020-01-01", "2020-01-02", "2020-01-02"], [23, 9, 10]),
    "text": (["2020-01-01", "2020-01-02", "2020-01-02"], ["23:59", "9:59", "10:00"]),
    "seconds": (["2020-01-01", "2020-01-02", "2020-01-02"], ["23:59:59", "09:59:00", "09:59:00.5"]),
    "nanoseconds": (
        ["2020-01-01", "2020-01-02", "2020-01-02"],
        ["23:59:59", "09:00:00.123456788", "09:00:00.123456789"],
    ),
    "12 hours": (["01/13/2020", "01/14/2020", "01/14/2020"], ["11:59 PM", "12:30 AM", "1:00 AM"]),
    "midnights": (["2020-01-01 00:00:00", "2020-01-02 00:00:00", "2020-01-02 00:00:00"], ["9:59", "8:00", "08:01"]),
}


@pytest.mark.parametrize(("dates", "clocks"), DATE_AND_TIME.values(), ids=DATE_AND_TIME.keys())
@pytest.mark.parametrize(
    "names", [("date", "time"), ("Order Date", "order_time"), ("Datum", "Uhrzeit"), ("date", "hour")]
)
def test_a_date_and_a_time_of_day_are_one_time(write, dates, clocks, names):
    frame = pl.DataFrame({"user": [1, 2, 3], names[1]: clocks, "item": [1, 2, 3], names[0]: dates})
    for order in ([0, 1, 2], [2, 1, 0]):
        shuffled = frame[order]
        for source in (shuffled, shuffled.to_pandas(), write(shuffled.write_csv()), write(parquet(shuffled))):
            table = read(source)
            assert table.frame.sort("time")["user"].to_list() == [1, 2, 3]
            assert table.source_info["columns"]["time"] == f"{names[0]} + {names[1]}"


TYPED = [
    ([dt.date(2020, 1, 1), dt.date(2020, 1, 2)], [dt.time(9, 59), dt.time(8)]),
    ([dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 2)], [dt.timedelta(hours=9), dt.timedelta(hours=8)]),
    ([dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(2020, 1, 2, tzinfo=dt.UTC)], ["9:59", "8:00"]),
    ([20200101.0, 20200102.0], [959.0, 800.0]),
]


@pytest.mark.parametrize(("dates", "clocks"), TYPED)
def test_a_date_and_a_time_of_day_of_other_dtypes(dates, clocks):
    for kind in (pl.DataFrame, pd.DataFrame):
        table = read(kind({"user": [1, 2], "item": [1, 2], "date": dates, "time": clocks})).frame
        assert table["time"][0] < table["time"][1]
        assert table["time"].cast(pl.Datetime("us")).dt.date().to_list() == [dt.date(2020, 1, 1), dt.date(2020, 1, 2)]


TWO_TIMES = {
    "unix times": ({"date": ["2020-01-01", "2020-01-02"], "time": [1577836800, 1577923200]}, "'date' or 'time'"),
    "ms": ({"date": ["2020-01-01", "2020-01-02"], "time_ms": [1577836800000, 1577923200000]}, "'date' or 'time_ms'"),
    "no minutes": ({"date": ["2020-01-01", "2020-01-02"], "time": [959, 975]}, "'date' or 'time'"),
    "both whole": ({"date": ["2020-01-01 08:00", "2020-01-02 09:00"], "time": ["8:00", "9:00"]}, "'date' or 'time'"),
    "two dates": (
        {"order_date": ["2020-01-01"] * 2, "invoice_date": ["2020-01-02"] * 2},
        "'order_date' or 'invoice_date'",
    ),
    "two moments": ({"timestamp": [1, 2], "created_at": [2, 1]}, "'timestamp' or 'created_at'"),
    "two moments at": ({"created_at": [1, 2], "updated_at": [2, 1]}, "'created_at' or 'updated_at'"),
    "three": ({"date": [1, 2], "time": [2, 1], "ts": [3, 3]}, "'date' or 'time' or 'ts'"),
    "no date": ({"date": ["x", "y"], "time": ["8:00", "9:00"]}, "column 'date' holds 'x'"),
    "no known date": ({"date": [20201301, 20200102], "time": ["8:00", "9:00"]}, "'date' or 'time'"),
    "one is no time of day": ({"date": ["2020-01-01"] * 2, "time": ["8:00", "25:00"]}, "'date' or 'time'"),
    "missing date": ({"date": ["2020-01-01", None], "time": ["8:00", "9:00"]}, "column 'date' is empty in"),
    "missing time": ({"date": ["2020-01-01", "2020-01-02"], "time": ["8:00", None]}, "column 'time' is empty in"),
}


@pytest.mark.parametrize(("columns", "message"), TWO_TIMES.values(), ids=TWO_TIMES.keys())
def test_two_columns_that_could_be_the_time(write, columns, message):
    frame = pl.DataFrame({"user": [1, 2], "item": [1, 2], **columns})
    for source in (frame, frame.to_pandas(), write(frame.write_csv()), write(parquet(frame))):
        with pytest.raises(DataError) as error:
            read(source)
        assert message in str(error.value)
        assert ("name one with time=..." in str(error.value)) == (" or " in message)


def test_the_caller_says_which_column_is_the_time(write):
    frame = pl.DataFrame({"user": [1, 2], "item": [1, 2], "date": ["2020-01-01"] * 2, "time_ms": [5, 4]})
    for source in (frame, write(frame.write_csv())):
        assert read(source, time="time_ms").frame["time"].to_list() == [5, 4]


@pytest.mark.parametrize(
    ("columns", "role"),
    [
        (["user_id", "user", "item_id", "timestamp"], "user"),
        (["user_id", "customer", "item_id", "timestamp"], "user"),
        (["user", "item", "movieId", "timestamp"], "item"),
        (["user", "track_id", "artist_id", "timestamp"], "item"),
        (["Kunde", "Kundennummer", "Artikel", "Datum"], "user"),
    ],
)
def test_two_columns_that_could_be_one_role(write, columns, role):
    frame = pl.DataFrame({name: ["1", "2"] for name in columns})
    for source in (frame, frame.to_pandas(), write(frame.write_csv()), write(parquet(frame))):
        with pytest.raises(DataError, match=f"which column is the {role}, .* name one with {role}=") as error:
            read(source)
        assert str(error.value).count(" or ") == 1


@pytest.mark.parametrize(
    "header",
    [
        "user_id:token,item_id:token,timestamp:float",
        "CustomerID,StockCode,InvoiceDate",
        "Kundennummer,Artikelnr.,Bestelldatum",
        "Nutzer-ID,Produkt,Zeitstempel",
        "id_usuario,artículo,fecha",
        "Número de cliente,código de producto,fecha_hora",
        "usuário,filme,data",
        "id do cliente,código do produto,data da compra",
        "identifiant_utilisateur,id_produit,horodatage",
        "Num. client,code produit,date de commande",
        "用户ID,商品编号,时间戳",
        "會員,商品,購買日期",
        "ユーザーID,商品コード,注文日時",
        "会員番号,作品ID,日付",
        "\uff35\uff33\uff25\uff32,\uff29\uff34\uff25\uff2d,\uff34\uff29\uff2d\uff25",
        "visitorid,itemid,event_time",
        "reviewerID,asin,unixReviewTime",
        "member_no,sku,purchased_at",
        "customer_unique_id,product_id,order_purchase_timestamp",
        "customer_id,article_id,t_dat",
        "customer_id,product_id,date_created",
        "household_key,PRODUCT_ID,TRANSACTION_DT",
        "msno,song_id,created_on",
        "session_id,parent_asin,ts",
        "session,aid,ts",
        "customer_email,sku,Created (UTC)",
        "Customer: ID,Line: SKU,Created At",
        "buyer-email,Titel,purchase-date",
        "Username,référence,event_dttm",
        "user_uid,element_uid,last_watch_dt",
        "KUNNR,MATNR,ERDAT",
        "id_customer,id_product,date_add",
        "domain_userid,click_article_id,collector_tstamp",
        "KdNr,ArtNr,Belegdatum",
        "codice cliente,prodotto,data acquisto",
        "买家会员名,书名,下单时间",
        "お客様番号,JANコード,受注日",
        "사용자ID,상품번호,주문일시",
        "고객 아이디,영화,날짜",
        "id_клиента,код товара,дата покупки",
        "Покупатель,Артикул,Дата заказа",
        "Mitglied,Artikel-Nr.,Verkaufsdatum",
        "id client,réf. produit,date d'achat",
        "顧客番号,商品ID,購入日",
        "利用者番号,書誌番号,貸出日",
        "会员编号,书籍编号,借阅日期",
        "회원번호,도서번호,대출일",
        "Mitglieds-Nr.,Medien-Nr.,Ausleihdatum",
        "adhérent,ouvrage,date de prêt",
        "N. cliente,N. articolo,Data fattura",
        "Контрагент,Номенклатура,Дата",
        "Користувач,Фільм,Час",
        "Klantnummer,Artikel,Datum van aankoop",
        "gebruiker_id,film_id,tijdstip",
        "ID użytkownika,Kod towaru,Data zamówienia",
        "uzytkownik,ksiazka,czas",
        "MÜŞTERİ_NO,ÜRÜN_KODU,SİPARİŞ_TARİHİ",
        "kullanici_id,kitap_id,zaman",
        "Kundnummer,vara,köpdatum",
        "bruger,vare-nr,dato",
        "asiakasnumero,tuotenumero,tilauspäivä",
        "Číslo zákazníka,Kód produktu,Datum objednávky",
        "Cod client,Cod produs,Data comenzii",
        "vásárló,cikkszám,dátum",
        "πελάτης,κωδικός προϊόντος,ημερομηνία",
        "id_pelanggan,kode barang,tanggal",
        "mã khách hàng,sản phẩm,ngày mua",
    ],
)
def test_known_names(write, header):
    names = header.split(",")
    found = {"user": names[0], "item": names[1], "time": names[2]}
    assert read(write(f"{header}\nann,tea,2020-01-01\nbob,pot,2020-01-02\n")).source_info["columns"] == found
    frame = pl.DataFrame([["ann", "bob"], ["tea", "pot"], ["2020-01-01", "2020-01-02"]], schema=names)
    assert read(frame).source_info["columns"] == found


HEADERS_OF_OTHERS = {
    "KuaiRand": ("user_id,video_id,date,play_time_ms,is_click", "which column is the time, 'date' or 'play_time_ms'"),
    "Criteo": ("timestamp,visitor_id,session_id,item_id,store_id", ["visitor_id", "item_id", "timestamp"]),
    "an id": ("user,id,title,date", "which column is the item"),
    "Shopify": (
        "Name,Email,Paid at,Created at,Lineitem name,Lineitem sku",
        ["Email", "Lineitem sku", "Created at"],
    ),
    "Shopify, all columns": (
        "Name,Email,Paid at,Created at,Lineitem quantity,Lineitem name,Lineitem sku,Employee,Device ID,Id",
        ["Email", "Lineitem sku", "Created at"],
    ),
    "a session beside a mail": ("session_id,email,sku,date", ["email", "sku", "date"]),
    "EB-NeRD": (
        "impression_id,article_id,impression_time,read_time,user_id,session_id",
        ["user_id", "article_id", "impression_time"],
    ),
    "courses": ("learner_id,course_id,enrolled_at", ["learner_id", "course_id", "enrolled_at"]),
    "prescriptions": ("patient_id,drug_code,prescribed_on", ["patient_id", "drug_code", "prescribed_on"]),
    "applications": ("candidate_id,job_id,applied_at", ["candidate_id", "job_id", "applied_at"]),
    "revisions": ("rev_user,page_id,rev_timestamp", ["rev_user", "page_id", "rev_timestamp"]),
    "an id and a mail": ("id,email,sku,date", "which column is the user"),
    "Matrixify": (
        "Customer: ID,Customer: Email,Customer: Orders Count,Created At,Line: SKU,Line: Title",
        ["Customer: ID", "Line: SKU", "Created At"],
    ),
    "WooCommerce": (
        "order_id,order_item_id,customer_id,product_id,variation_id,date_created",
        ["customer_id", "product_id", "date_created"],
    ),
    "Etsy": ("Sale Date,Item Name,Buyer,Listing ID,Date Paid,Order ID", ["Buyer", "Listing ID", "Sale Date"]),
    "Olist": (
        "order_id,customer_id,order_purchase_timestamp,order_item_id,product_id,seller_id",
        ["customer_id", "product_id", "order_purchase_timestamp"],
    ),
    "Amazon": ("rating,title,asin,parent_asin,user_id,timestamp", "which column is the item, 'asin' or 'parent_asin'"),
    "Last.fm": ("Username,Artist,Track,Album,Date", "which column is the item, 'Artist' or 'Track' or 'Album'"),
    "Spotify": ("pid,pos,track_uri,time", "which column is the (item, 'pid' or 'track_uri'|user)"),
    "Goodreads": (
        "user_id,book_id,rating,date_added,date_updated",
        "which column is the time, 'date_added' or 'date_updated'",
    ),
    "mail and name": ("buyer_email,buyer_username,sku,date", "which column is the user, 'buyer_email' or"),
    "RetailRocket without users": ("transactionid,itemid,timestamp", "which column is the user"),
}


@pytest.mark.parametrize(("header", "expected"), HEADERS_OF_OTHERS.values(), ids=HEADERS_OF_OTHERS.keys())
def test_tables_of_shops_and_public_data_sets(header, expected):
    names = header.split(",")
    frame = pl.DataFrame([["2020-01-01 09:00", "2020-01-02 10:00"]] * len(names), schema=names)
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            read(frame)
    else:
        assert list(read(frame, needs_time=len(expected) > 2).source_info["columns"].values()) == expected


@pytest.mark.parametrize(
    "row",
    [
        *("ann,tea,a title,12", "1,2,3,4", "1,2,5,100", "1,2,7,1500", "1,2,2000000,3"),
        *("1,2,12", "ann,tea,2"),
    ],
)
def test_ratings_and_counts_are_no_times(write, row):
    path = write(f"{row}\n" * 3)
    with pytest.raises(DataError, match=r"has no header, and neither .* looks like times .* split='random'"):
        read(path)
    assert "time" not in read(path, needs_time=False, user="column_1", item="column_2").source_info["columns"]
    assert read(path, time="column_3").frame["time"].dtype == pl.Int64 if row != "ann,tea,a title,12" else True


def test_years_of_two_digits_without_a_header(write):
    path = write("1,10,31-12-19\n1,11,01-01-20\n")
    for needs_time in (True, False):
        with pytest.raises(DataError, match="'31-12-19' in line 1; expected a year of four digits"):
            read(path, needs_time=needs_time)


@pytest.mark.parametrize("bad", ["3", "1500", ""])
def test_times_without_a_header_are_times_on_all_rows(write, bad):
    lines = [f"{user},{user + 1},3,{881250949 + user}" for user in range(3000)]
    for place in (0, 2900):
        changed = [*lines[:place], f"1,2,3,{bad}", *lines[place:]]
        with pytest.raises(DataError, match=f"column 'column_4' (holds|is empty).* in line {place + 1}; expected a"):
            read(write("\n".join(changed)))


def test_two_times_without_a_header(write):
    with pytest.raises(DataError, match="which column is the time, column_3 or column_4"):
        read(write("1,2,881250949,881250950\n" * 2))
    assert rows(write("1,2,881250949,881250950\n"), time="column_3") == [(1, 2, 881250949)]


def test_a_date_and_a_time_of_day_without_a_header(write):
    times = read(write("1,2,2020-01-01,9:59\n2,2,2020-01-01,10:00\n")).frame["time"]
    assert times[1] - times[0] == 60 * 10**6


HEADERS = {
    "counted": "0,1,2\n196,242,3\n186,302,3\n196,302,5\n",
    "counted, two": "0,1\n196,242\n186,302\n",
    "counted from 1": "1,2,3\n196,242,3\n186,302,3\n",
    "numbers above text": "17,4\nann,tea\nbob,tea\nann,pot\n",
    "a year among names": "vārds,2020\nann,7\nbob,7\nann,8\n",
    "counted, other order": "1,0,2\n196,242,3\n186,302,3\n",
    "unknown language": "lietotājs,prece\nann,tea\nbob,tea\nann,pot\n",
    "an empty rating": "lietotājs,prece,vērtējums\nann,tea,3\nbob,tea,\n",
}


@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS.keys())
def test_a_header_is_no_interaction(write, content):
    path = write(content)
    first, *others = content.split()
    names = first.split(",")
    with pytest.raises(DataError) as error:
        read(path, needs_time=False)
    assert f"user={names[0]!r}, item={names[1]!r}" in str(error.value)
    assert "user='column_1', item='column_2'" in str(error.value)
    assert len(rows(path, needs_time=False, user=names[0], item=names[1])) == len(others)
    assert len(rows(path, needs_time=False, user="column_1", item="column_2")) == len(others) + 1


def test_a_header_of_digits_above_times(write):
    with pytest.raises(DataError, match="column 'column_4' holds 3 in line 1; expected a time"):
        read(write("0,1,2,3\n196,242,3,881250949\n186,302,3,891717742\n"))


@pytest.mark.parametrize("content", ["0,1\n0,2\n1,1\n", "ann,tea\nann,pot\n", "ann,tea\nbob,tea\n", "1,2\n3,4\n"])
def test_a_first_interaction_is_no_header(write, content):
    assert len(rows(write(content), needs_time=False)) == content.count("\n")


@pytest.mark.parametrize("header", ["lietotājs,prece,laiks", "alpha,beta,gamma"])
@pytest.mark.parametrize("time", ["881250949", "2020-01-01", "2020-01-01 09:00:00", "20.09.1997"])
def test_a_header_above_times_is_known_by_them(write, header, time):
    with pytest.raises(DataError, match=f"which column is the user\\? its columns are {header.replace(',', ', ')}"):
        read(write(f"{header}\nann,tea,{time}\nbob,tea,{time}\n"))


def test_a_test_set_of_text_has_no_doubtful_header(write):
    train = write("ann,tea\nann,pot\nbob,tea\nbob,cup\neve,cup\neve,mug\n", "train.csv")
    test = write("ann,cup\nbob,pot\n", "test.csv")
    assert fastncf.fit(train, test=test, model="popularity").data["users"] == 3


@pytest.mark.parametrize("separator", ["\t", ",", "::"])
@pytest.mark.parametrize("names", [{"user": "userid"}, {"user": "u", "item": "i"}, {"time": "when"}])
def test_given_names_of_a_text_without_a_header(write, separator, names):
    rows = [(196, 242, 3, 881250949), (186, 302, 3, 891717742), (196, 377, 1, 878887116)]
    path = write("\n".join(separator.join(map(str, row)) for row in rows))
    (role, name), *_ = names.items()
    with pytest.raises(
        DataError, match=rf"has no header; its columns are column_1 \.\.\. column_4, and none is '{name}'"
    ):
        read(path, **names)
    named = write("\n".join(separator.join(map(str, row)) for row in [("who", "what", "how", "at"), *rows]))
    with pytest.raises(DataError, match=f"has no column '{name}' for {role}=; its columns are who, what, how, at"):
        read(named, **names)


@pytest.mark.parametrize("name", ["watch_time", "playTime", "play time (s)", "listening_time_ms", "playtime"])
def test_durations_are_not_taken_for_times(write, name):
    path = write(f"user,item,{name}\n1,10,1112486027\n1,11,5\n2,11,6\n")
    for source, place in ((path, "line 3"), (pl.read_csv(path), "row 2")):
        expected = "expected a time such as 1112486027; other numbers need a header that calls the column time"
        with pytest.raises(DataError, match=re.escape(f"column {name!r} holds 5 in {place}; {expected}")):
            read(source)
        assert read(source, time=name).frame["time"].to_list() == [1112486027, 5, 6]
    for times in ((1112486027, 1112486028), ("2020-01-01", "2020-01-02")):
        table = read(write(f"user,item,{name}\n1,10,{times[0]}\n1,11,{times[1]}\n"))
        assert table.frame["time"].is_sorted()
