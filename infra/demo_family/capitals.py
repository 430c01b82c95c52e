"""Country -> IANA time zone whose exemplar city is that country's capital.

CLDR has no list of capitals, but it translates the exemplar city of every time zone. This table, written by hand,
names the zones whose city is the capital; the names of city and country then come from CLDR in every language, which
keeps the facts under the Unicode licence. Countries whose capital has no zone of its own (India, the United States,
Brazil ...) or whose zone is named after the country or an island are left out rather than approximated.
"""

from __future__ import annotations

_TABLE = """
AF Asia/Kabul | AL Europe/Tirane | AM Asia/Yerevan | AO Africa/Luanda | AR America/Buenos_Aires | AT Europe/Vienna
AZ Asia/Baku | BA Europe/Sarajevo | BD Asia/Dhaka | BE Europe/Brussels | BF Africa/Ouagadougou | BG Europe/Sofia
BJ Africa/Porto-Novo | BT Asia/Thimphu | BW Africa/Gaborone | BY Europe/Minsk | CD Africa/Kinshasa | CF Africa/Bangui
CG Africa/Brazzaville | CL America/Santiago | CO America/Bogota | CU America/Havana | CY Asia/Nicosia
CZ Europe/Prague | DE Europe/Berlin | DK Europe/Copenhagen | DO America/Santo_Domingo | DZ Africa/Algiers
EC America/Quito | EE Europe/Tallinn | EG Africa/Cairo | ER Africa/Asmara | ES Europe/Madrid | ET Africa/Addis_Ababa
FI Europe/Helsinki | FK Atlantic/Stanley | FR Europe/Paris | GA Africa/Libreville | GB Europe/London | GE Asia/Tbilisi
GH Africa/Accra | GL America/Godthab | GM Africa/Banjul | GN Africa/Conakry | GQ Africa/Malabo | GR Europe/Athens
GW Africa/Bissau | HR Europe/Zagreb | HT America/Port-au-Prince | HU Europe/Budapest | ID Asia/Jakarta
IE Europe/Dublin | IQ Asia/Baghdad | IR Asia/Tehran | IS Atlantic/Reykjavik | IT Europe/Rome | JO Asia/Amman
JP Asia/Tokyo | KE Africa/Nairobi | KG Asia/Bishkek | KH Asia/Phnom_Penh | KP Asia/Pyongyang | KR Asia/Seoul
LA Asia/Vientiane | LB Asia/Beirut | LR Africa/Monrovia | LS Africa/Maseru | LT Europe/Vilnius | LV Europe/Riga
LY Africa/Tripoli | ME Europe/Podgorica | MG Indian/Antananarivo | MK Europe/Skopje | ML Africa/Bamako
MN Asia/Ulaanbaatar | MR Africa/Nouakchott | MX America/Mexico_City | MY Asia/Kuala_Lumpur | MZ Africa/Maputo
NC Pacific/Noumea | NE Africa/Niamey | NI America/Managua | NL Europe/Amsterdam | NO Europe/Oslo | NP Asia/Katmandu
OM Asia/Muscat | PE America/Lima | PG Pacific/Port_Moresby | PH Asia/Manila | PL Europe/Warsaw | PT Europe/Lisbon
PY America/Asuncion | RO Europe/Bucharest | RS Europe/Belgrade | RU Europe/Moscow | RW Africa/Kigali
SA Asia/Riyadh | SD Africa/Khartoum | SE Europe/Stockholm | SI Europe/Ljubljana | SK Europe/Bratislava
SL Africa/Freetown | SN Africa/Dakar | SO Africa/Mogadishu | SR America/Paramaribo | SS Africa/Juba
ST Africa/Sao_Tome | SY Asia/Damascus | SZ Africa/Mbabane | TD Africa/Ndjamena | TG Africa/Lome | TH Asia/Bangkok
TJ Asia/Dushanbe | TL Asia/Dili | TM Asia/Ashgabat | TN Africa/Tunis | TT America/Port_of_Spain | TW Asia/Taipei
UA Europe/Kiev | UG Africa/Kampala | UY America/Montevideo | UZ Asia/Tashkent | VE America/Caracas | WS Pacific/Apia
ZM Africa/Lusaka | ZW Africa/Harare
"""

CAPITAL_ZONES: dict[str, str] = dict(cell.split() for line in _TABLE.strip().splitlines() for cell in line.split("|"))
