//! The lexer on what tools write, on what they never write, and on anything.

use proptest::prelude::*;

use super::*;

fn read(chunks: &[&[u8]]) -> Result<Summary> {
    let mut reader = Reader::new();
    for chunk in chunks {
        reader.feed(chunk)?;
    }
    reader.finish()
}

fn whole(text: &str) -> Summary {
    read(&[format!("{text}\n-- Dump completed on 2026-11-22 15:01:02\n").as_bytes()]).unwrap()
}

fn refused(text: &str) -> String {
    let error = read(&[format!("{text}\n-- Dump completed\n").as_bytes()]).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    error.chain()
}

const DUMP: &str = r#"/*M!999999\- enable the sandbox mode */ 
-- MariaDB dump 10.19  Distrib 10.11.19-MariaDB, it's a comment; with `quotes
--
/*!40101 SET NAMES utf8mb4 */;
/*!40101 SET @OLD_SQL_MODE=@@SQL_MODE, SQL_MODE='NO_AUTO_VALUE_ON_ZERO' */;
DROP TABLE IF EXISTS `we``ird; (name)`;
CREATE TABLE `we``ird; (name)` (
  `a` int(11) DEFAULT NULL COMMENT 'a; (b) \' -- c',
  `g` int(11) GENERATED ALWAYS AS (`a` + (1)) STORED
) ENGINE=InnoDB;
LOCK TABLES `we``ird; (name)` WRITE;
/*!40000 ALTER TABLE `we``ird; (name)` DISABLE KEYS */;
INSERT INTO `we``ird; (name)` (`a`, `VALUES`) VALUES
(1,'it''s \'(one)\', \\'),
(-2,'\n-- Dump completed on\n(2);
-- Dump completed on 2026-01-01 00:00:00
'),(NULL,_binary 'x/*y'),(0x00FF,CONCAT('(',(2)));
INSERT INTO `we``ird; (name)` VALUES (1);
UNLOCK TABLES;
CREATE TABLE `empty` (`a` int);
ALTER DATABASE `system` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin ;
/*!50003 SET sql_mode              = 'STRICT_TRANS_TABLES,NO_BACKSLASH_ESCAPES' */ ;
DELIMITER ;;
/*!50003 CREATE*/ /*!50017 DEFINER=`ro``ot`@`%`*/ /*!50003 TRIGGER t BEFORE INSERT ON empty FOR EACH ROW BEGIN
  SET @a = '\'; SET @b = 1 -- it's
  ; # don't
  /* a ; ' comment */
END */;;
DELIMITER ;
/*!50003 SET sql_mode              = @saved_sql_mode */ ;
DELIMITER ;;
CREATE DEFINER=`root`@`%` PROCEDURE `p`() BEGIN SELECT 1; SELECT '\';;'; END ;;
CREATE DEFINER="root"@"%" FUNCTION "f"() RETURNS int RETURN 1 ;;
/*!50106 CREATE*/ /*!50117 DEFINER=`root`@`%`*/ /*!50106 EVENT `e` ON SCHEDULE EVERY 1 DAY DO SELECT 1 */ ;;
DELIMITER ;
/*!50001 CREATE VIEW `v` AS SELECT
 1 AS `a` */;
/*!50001 DROP VIEW IF EXISTS `v`*/;
/*!50001 CREATE ALGORITHM=UNDEFINED */
/*!50013 DEFINER=`root`@`localhost` SQL SECURITY DEFINER */
/*!50001 VIEW `v` AS select 2*3 AS `a` */;
CREATE SEQUENCE `s` start with 1;
SELECT SETVAL(`s`, 1, 0);
"#;

#[test]
fn a_dump_is_counted_as_it_is() {
    let found = whole(DUMP);
    assert_eq!(
        found.rows.iter().map(|(n, r)| (n.as_str(), *r)).collect::<Vec<_>>(),
        [("empty", 0), ("we`ird; (name)", 5)]
    );
    assert_eq!((found.triggers, found.routines, found.events), (1, 2, 1));
    assert_eq!(found.views.iter().collect::<Vec<_>>(), ["v"]);
    assert_eq!(found.sequences.iter().collect::<Vec<_>>(), ["s"]);
    assert_eq!(found.altered_schemas.iter().collect::<Vec<_>>(), ["system"]);
    assert!(found.foreign_schemas.is_empty(), "{:?}", found.foreign_schemas);
    assert_eq!(found.definers.iter().collect::<Vec<_>>(), ["ro`ot@%", "root@%", "root@localhost"]);
    let counts = found.counts();
    assert_eq!(counts.get("tables"), Some(&2));
    assert_eq!(counts.get("rows:empty"), Some(&0));
}

#[test]
fn the_longest_statement_is_measured_without_its_delimiter() {
    assert_eq!(whole("-- not counted\n  SET a=1;\nSET abc='x;y' ;").longest_statement, 14);
    assert_eq!(whole("/*!40101 SET a=1 */;").longest_statement, 19);
    assert_eq!(whole("DELIMITER ;;\nCREATE PROCEDURE p() x;;\nDELIMITER ;").longest_statement, 22);
}

#[test]
fn a_stand_in_table_of_a_view_is_no_table() {
    let found = whole(
        "/*!50001 CREATE TABLE `v` (`a` tinyint NOT NULL) ENGINE=MyISAM */;\n/*!50001 VIEW*/;"
            .replace("/*!50001 VIEW*/", "/*!50001 CREATE ALGORITHM=UNDEFINED */ /*!50001 VIEW `v` AS select 1 */")
            .as_str(),
    );
    assert!(found.rows.is_empty());
    assert_eq!(found.views.len(), 1);
}

#[test]
fn only_the_last_line_ends_a_dump() {
    for cut in [
        "",
        "SET a=1;\n",
        "SET a=1;\n-- Dump completed on 2026",
        "-- Dump completed\nSET a=1;\n",
        "-- Dump completed\n/* x */\n",
        "-- Dump completed\n# x\n",
        "#-- Dump completed\n",
        "SET a='\n-- Dump completed\n",
        "SET a=\n-- Dump completed\n",
        "/*\n-- Dump completed\n",
    ] {
        let error = read(&[cut.as_bytes()]).unwrap_err();
        assert!(error.chain().contains("not whole"), "{cut:?}: {}", error.chain());
    }
    assert!(read(&[b"-- Dump completed\n"]).is_ok());
    assert!(read(&[b"-- Dump completed on 2026-11-22\n\n"]).is_ok());
}

#[test]
fn every_cut_of_a_dump_is_refused() {
    let all = format!("{DUMP}-- Dump completed on 2026-11-22 15:01:02\n");
    for end in 0..all.len() {
        assert!(read(&[&all.as_bytes()[..end]]).is_err(), "cut at {end}");
    }
}

#[test]
fn what_no_tool_writes_is_refused_without_repeating_it() {
    for bad in [
        "secret;",
        "\\! secret\n",
        "INSERT INTO `t` VALUES (1) \\! secret\n;",
        "source secret;",
        "GRANT ALL ON secret TO x;",
        "CREATE USER secret;",
        "DROP USER secret;",
        "SET GLOBAL secret=1;",
        "SET @@GLOBAL.GTID_PURGED='secret';",
        "SELECT secret INTO OUTFILE 'x';",
        "DELIMITER \nsecret",
        "'secret';",
        "(secret);",
    ] {
        let text = refused(bad);
        assert!(!text.contains("secret"), "{text}");
    }
}

#[test]
fn other_schemas_are_named() {
    for (sql, schema) in [
        ("USE `other`;", "other"),
        ("CREATE DATABASE /*!32312 IF NOT EXISTS*/ `other` /*!40100 DEFAULT CHARACTER SET utf8mb3 */;", "other"),
        ("DROP DATABASE IF EXISTS `other`;", "other"),
        ("INSERT INTO `other`.`t` VALUES (1);", "other"),
        ("CREATE TABLE IF NOT EXISTS `other`.`t` (a int);", "other"),
        ("DROP TABLE IF EXISTS `other`.`t`;", "other"),
        ("ALTER TABLE `other`.`t` DISABLE KEYS;", "other"),
        ("LOCK TABLES `other`.`t` WRITE;", "other"),
    ] {
        assert_eq!(whole(sql).foreign_schemas.iter().collect::<Vec<_>>(), [schema], "{sql}");
    }
}

/// Pieces of dumps in any order, which go deeper than arbitrary bytes.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "'",
            "\"",
            "`",
            "\\",
            "\\'",
            "''",
            ";",
            ";;",
            "\n",
            " ",
            "--",
            "-- ",
            "#",
            "/*",
            "*/",
            "/*!50003 ",
            "/*M!",
            "*",
            "/",
            "(",
            ")",
            ",",
            "-1",
            "DELIMITER ;;\n",
            "DELIMITER ;\n",
            "INSERT INTO `t` VALUES ",
            "CREATE TABLE ",
            "`t`",
            "SET sql_mode = 'NO_BACKSLASH_ESCAPES';",
            "SET sql_mode = @a;",
            "USE x;",
            "-- Dump completed\n",
            "/*M!999999\\- enable the sandbox mode */\n",
            "CREATE DEFINER=`a`@`b` TRIGGER x ",
            "\\N",
            "ä",
            "\0",
        ])
        .prop_map(|s| s.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn outcome(chunks: &[&[u8]]) -> std::result::Result<Summary, String> {
    read(chunks).map_err(|e| e.chain())
}

proptest! {
    #[test]
    fn any_bytes_give_the_same_however_they_are_cut(bytes in soup(), cuts in prop::collection::vec(0_usize..200, 0..6)) {
        let one = outcome(&[&bytes]);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(&one, &outcome(&single));
        let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
        prop_assert_eq!(&one, &outcome(&chunks));
    }

    #[test]
    fn rows_are_counted_whatever_they_hold(values in prop::collection::vec(".*", 1..20)) {
        let rows: Vec<String> =
            values.iter().map(|v| format!("(1,'{}',-2)", v.replace('\\', "\\\\").replace('\'', "\\'"))).collect();
        let found = whole(&format!("INSERT INTO `t` VALUES {};", rows.join(",")));
        prop_assert_eq!(found.rows.get("t"), Some(&(values.len() as u64)));
    }
}
