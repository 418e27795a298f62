//! Divides a dump as it passes: tables with their rows, what is made of them, and what runs by itself.
//!
//! Tables are loaded beside the live ones; triggers, routines and views name their schema or belong to it, so they are kept apart and made when
//! the tables are in their place. Settings and delimiters go with all, because each side is read by a client of its own. Nothing that names a
//! schema goes with the tables: it would act on the live one.

use super::{Reader, SANDBOX, Summary};
use crate::error::{Error, Kind, Result};

/// Longer than any beginning of a statement with the comments before it.
const HELD: usize = 1 << 20;

/// Where a statement belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sides {
    /// With tables, rows and sequences.
    pub tables: bool,
    /// With triggers, routines and views.
    pub objects: bool,
    /// With events.
    pub events: bool,
}

impl Sides {
    pub(super) const NONE: Self = Self { tables: false, objects: false, events: false };
    pub(super) const ALL: Self = Self { tables: true, objects: true, events: true };
    pub(super) const TABLES: Self = Self { tables: true, ..Self::NONE };
    pub(super) const OBJECTS: Self = Self { objects: true, ..Self::NONE };
    pub(super) const EVENTS: Self = Self { events: true, ..Self::NONE };
    pub(super) const OBJECTS_AND_EVENTS: Self = Self { objects: true, events: true, ..Self::NONE };
}

/// The next bytes of each side; to be taken away after every call.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pieces {
    /// Tables, rows and sequences, on the lines that they have in the dump.
    pub tables: Vec<u8>,
    /// Triggers, routines and views.
    pub objects: Vec<u8>,
    /// Events.
    pub events: Vec<u8>,
}

impl Pieces {
    fn add(&mut self, sides: Sides, bytes: &[u8]) {
        if sides.tables {
            self.tables.extend_from_slice(bytes);
        } else {
            // So that an error of the client names the line of the dump.
            self.tables.extend(bytes.iter().filter(|b| **b == b'\n'));
        }
        if sides.objects {
            self.objects.extend_from_slice(bytes);
        }
        if sides.events {
            self.events.extend_from_slice(bytes);
        }
    }
}

/// Reads one dump from its beginning, as [`Reader`] does, and divides it.
#[derive(Debug, Default)]
pub struct Splitter {
    reader: Reader,
    /// What was read of a statement that may still be anything, with the comments before it.
    held: Vec<u8>,
    /// Where the statement belongs that is being read, once it is known.
    known: Option<Sides>,
    /// Something was passed on already.
    begun: bool,
}

impl Splitter {
    /// Reads the next bytes, and adds to the pieces what is known by then.
    ///
    /// # Errors
    /// `Corrupt`, as [`Reader::feed`], and for tables or rows that name a schema. Do not go on after it.
    pub fn feed(&mut self, bytes: &[u8], pieces: &mut Pieces) -> Result<()> {
        let (mut from, mut at) = (0, 0);
        while at < bytes.len() {
            at += self.reader.advance(bytes.get(at..).unwrap_or_default())?;
            let ended = self.reader.ended.take();
            let sides = match (self.known, ended) {
                (Some(known), Some(_)) => known,
                (None, Some(found)) => self.allowed(found)?,
                (None, None) if self.reader.current.is_known() => {
                    let found = self.reader.current.sides().map_err(|what| self.reader.strange(what))?;
                    self.allowed(found)?
                }
                (_, None) => continue,
            };
            self.pass(sides, bytes.get(from..at).unwrap_or_default(), pieces);
            from = at;
            self.known = if ended.is_some() { None } else { Some(sides) };
        }
        let rest = bytes.get(from..).unwrap_or_default();
        if let Some(known) = self.known {
            pieces.add(known, rest);
            return Ok(());
        }
        self.held.extend_from_slice(rest);
        if self.held.len() > HELD {
            return Err(self.reader.strange("a comment longer than any dump tool writes"));
        }
        Ok(())
    }

    /// Says that there are no more bytes.
    ///
    /// # Errors
    /// As [`Reader::finish`].
    pub fn finish(self) -> Result<Summary> {
        self.reader.finish()
    }

    fn allowed(&self, (sides, names_schema): (Sides, bool)) -> Result<Sides> {
        if sides.tables && names_schema {
            return Err(Error::new(
                Kind::Corrupt,
                format!(
                    "at byte {} of the dump stands a table with the name of a database before its own, which no dump tool writes",
                    self.reader.offset
                ),
            ));
        }
        Ok(sides)
    }

    fn pass(&mut self, sides: Sides, bytes: &[u8], pieces: &mut Pieces) {
        self.held.extend_from_slice(bytes);
        let mut all = self.held.as_slice();
        if !self.begun && all.starts_with(SANDBOX) {
            // A command of MariaDB's newer clients only; its line stays.
            let end = all.iter().position(|b| *b == b'\n').unwrap_or(all.len());
            all = all.get(end..).unwrap_or_default();
        }
        self.begun = true;
        pieces.add(sides, all);
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = r"/*M!999999\- enable the sandbox mode */ 
-- MariaDB dump
/*!40101 SET NAMES utf8mb4 */;
DROP TABLE IF EXISTS `t`;
CREATE TABLE `t` (`a` int);
LOCK TABLES `t` WRITE;
/*!40000 ALTER TABLE `t` DISABLE KEYS */;
INSERT INTO `t` VALUES
(1,'CREATE TRIGGER; '),
(2,'x');
UNLOCK TABLES;
ALTER DATABASE `system` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin ;
DELIMITER ;;
/*!50003 CREATE*/ /*!50017 DEFINER=`root`@`%`*/ /*!50003 TRIGGER t BEFORE INSERT ON t FOR EACH ROW BEGIN
  INSERT INTO t VALUES (3);
END */;;
DELIMITER ;
/*!50001 CREATE TABLE `v` (`a` tinyint NOT NULL) ENGINE=MyISAM */;
USE `system`;
DELIMITER ;;
/*!50106 CREATE*/ /*!50117 DEFINER=`root`@`%`*/ /*!50106 EVENT `e` ON SCHEDULE EVERY 1 DAY DO SELECT 1 */ ;;
DELIMITER ;
/*!50003 DROP PROCEDURE IF EXISTS `p` */;
CREATE SEQUENCE `s` start with 1;
DO SETVAL(`s`, 1, 0);
/*!50001 DROP TABLE IF EXISTS `v`*/;
/*!50001 CREATE ALGORITHM=UNDEFINED */
/*!50001 VIEW `v` AS select 1 */;
SET a=1;
-- Dump completed
";

    fn split(dump: &[u8], size: usize) -> Result<Pieces> {
        let (mut splitter, mut pieces) = (Splitter::default(), Pieces::default());
        for chunk in dump.chunks(size) {
            splitter.feed(chunk, &mut pieces)?;
        }
        splitter.finish().map(|_| pieces)
    }

    fn code(side: &[u8]) -> Vec<String> {
        let text = String::from_utf8(side.to_vec()).unwrap();
        text.lines().filter(|l| !l.is_empty() && !l.starts_with("--")).map(str::to_owned).collect()
    }

    #[test]
    fn each_statement_goes_where_it_belongs() {
        let pieces = split(DUMP.as_bytes(), 4096).unwrap();
        assert_eq!(
            code(&pieces.tables),
            [
                "/*!40101 SET NAMES utf8mb4 */;",
                "DROP TABLE IF EXISTS `t`;",
                "CREATE TABLE `t` (`a` int);",
                "/*!40000 ALTER TABLE `t` DISABLE KEYS */;",
                "INSERT INTO `t` VALUES",
                "(1,'CREATE TRIGGER; '),",
                "(2,'x');",
                "DELIMITER ;;",
                "DELIMITER ;",
                "DELIMITER ;;",
                "DELIMITER ;",
                "CREATE SEQUENCE `s` start with 1;",
                "DO SETVAL(`s`, 1, 0);",
                "SET a=1;",
            ]
        );
        let objects = code(&pieces.objects);
        assert_eq!(objects.iter().filter(|l| l.contains("`t`")).count(), 0, "{objects:#?}");
        for there in
            ["TRIGGER t", "ALTER DATABASE", "CREATE TABLE `v`", "DROP TABLE", "VIEW `v`", "PROCEDURE", "SET a=1"]
        {
            assert!(objects.iter().any(|l| l.contains(there)), "{there}: {objects:#?}");
        }
        let events = code(&pieces.events);
        assert!(events.iter().any(|l| l.contains("EVENT `e`")) && events.iter().any(|l| l.contains("ALTER DATABASE")));
        assert_eq!(events.iter().filter(|l| l.contains("TRIGGER") || l.contains("VIEW")).count(), 0, "{events:#?}");
        let all = [pieces.tables, pieces.objects, pieces.events].concat();
        assert!(!String::from_utf8(all).unwrap().contains("USE"));
    }

    #[test]
    fn the_same_however_it_is_cut_and_on_the_same_lines() {
        let whole = split(DUMP.as_bytes(), 4096).unwrap();
        for size in 1..80 {
            assert_eq!(split(DUMP.as_bytes(), size).unwrap(), whole, "chunks of {size}");
        }
        let line = |text: &str, of: &str| text.lines().position(|l| l.contains(of)).unwrap();
        let tables = String::from_utf8(whole.tables).unwrap();
        for of in ["(2,'x')", "CREATE SEQUENCE", "SET a=1"] {
            assert_eq!(line(&tables, of), line(DUMP, of), "{of}");
        }
    }

    #[test]
    fn long_statements_pass_in_bounded_memory() {
        let row = format!("('{}'),\n", "x".repeat(1000));
        let body = "SET @a = 1; ".repeat(10_000);
        let long = format!(
            "INSERT INTO `t` VALUES {}('');\nDELIMITER ;;\nCREATE TRIGGER `r` BEFORE INSERT ON `t` FOR EACH ROW BEGIN {body}END;;\nDELIMITER ;\n-- Dump completed\n",
            row.repeat(3000)
        );
        let (mut splitter, mut all) = (Splitter::default(), Pieces::default());
        for chunk in long.as_bytes().chunks(1000) {
            let mut pieces = Pieces::default();
            splitter.feed(chunk, &mut pieces).unwrap();
            assert!(splitter.held.len() <= 8192, "{} bytes are held", splitter.held.len());
            all.tables.extend(pieces.tables);
            all.objects.extend(pieces.objects);
        }
        assert_eq!(splitter.finish().unwrap().rows["t"], 3001);
        assert!(all.tables.starts_with(b"INSERT") && all.objects.len() > body.len());
    }

    #[test]
    fn a_table_that_names_a_schema_is_refused_before_any_of_it_is_passed_on() {
        for bad in [
            "INSERT INTO `live`.`t` VALUES (1);",
            "CREATE TABLE `live`.`t` (a int);",
            "DROP TABLE IF EXISTS `live`.`t`;",
            "/*!40000 ALTER TABLE `live`.`t` DISABLE KEYS */;",
        ] {
            let (mut splitter, mut pieces) = (Splitter::default(), Pieces::default());
            let refused = splitter.feed(format!("SET a=1;\n{bad}\n").as_bytes(), &mut pieces).unwrap_err();
            assert_eq!(refused.kind(), Kind::Corrupt);
            assert_eq!(pieces.tables, b"SET a=1;", "{bad}");
        }
    }
}
